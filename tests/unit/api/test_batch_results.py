"""The results of a batch over the API: line by line, from where a client stopped, and to readers of all kinds."""

import asyncio
import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from anyio import CapacityLimiter
from sqlalchemy import update
from starlette.requests import ClientDisconnect
from starlette.types import Message

from api.live.connection import EXTENSION
from api.live.download import Download
from api.use_cases import batch_results
from common.db.tables import batches
from common.db.tenants import create_tenant
from common.domain.errors import Unavailable
from common.ids import new_id
from tests.making import enlist
from tests.making_batches import WRONG, develop, make_batch, queue_batch
from tests.unit.api.conftest import Api, Json

URL = "/v1/batches/{}/results"


def lines_of(api: Api, batch_id: str, **query: Any) -> list[Json]:
    answer = api.client.get(URL.format(batch_id), params=query)
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "application/jsonl"
    assert answer.text == "" or answer.text.endswith("\n")
    return [json.loads(line) for line in answer.text.splitlines()]


def test_each_line_says_what_its_job_would(api: Api) -> None:
    batch_id = queue_batch(api.database, ["a", None, "ü"])
    job_id = develop(api.database, enlist(api.database))
    done, wrong, waiting = lines_of(api, batch_id)
    job = api.client.get(f"/v1/jobs/{job_id}").json()
    assert done == {"custom_id": "a", "job": job_id, "status": "succeeded", "images": job["images"], "error": None}
    assert wrong == {"custom_id": None, "job": None, "status": "failed", "images": [], "error": WRONG}
    assert (waiting["custom_id"], waiting["status"]) == ("ü", "queued")


def test_a_batch_that_validates_has_no_lines_yet(api: Api) -> None:
    assert lines_of(api, make_batch(api.database)) == []


@pytest.mark.parametrize("page", [1, 2, 1000])
def test_lines_go_on_behind_an_item_and_stop_where_asked(api: Api, monkeypatch: Any, page: int) -> None:
    monkeypatch.setattr(batch_results, "_PAGE", page)
    names = [f"n{number}" for number in range(7)]
    batch_id = queue_batch(api.database, names)
    for after in (None, 0, 2, 6):
        for limit in (None, 1, 3, 100_000):
            query = {} if after is None else {"after": names[after]}
            found = lines_of(api, batch_id, **query, **({} if limit is None else {"limit": limit}))
            first = 0 if after is None else after + 1
            assert [line["custom_id"] for line in found] == names[first:][:limit]


@pytest.mark.parametrize(
    ("query", "pointer"),
    [
        ({"after": "unknown"}, "/query/after"),
        ({"after": "\0"}, "/query/after"),
        ({"after": "x" * 256}, "/query/after"),
        ({"limit": 0}, "/query/limit"),
        ({"limit": 100_001}, "/query/limit"),
        ({"limit": "x"}, "/query/limit"),
        ({"status": "failed"}, "/query/status"),
    ],
)
def test_a_wrong_place_to_begin_is_refused(api: Api, query: Json, pointer: str) -> None:
    answer = api.client.get(URL.format(queue_batch(api.database, ["a"])), params=query)
    assert answer.status_code == 422
    assert [one["pointer"] for one in answer.json()["errors"]] == [pointer]


@pytest.mark.parametrize("kind", ["results", "archive", "events"])
@pytest.mark.parametrize("batch_id", ["x", new_id("bat"), new_id("job"), "theirs"])
def test_batches_that_are_none_of_yours_are_not_there(api: Api, kind: str, batch_id: str) -> None:
    if batch_id == "theirs":
        with api.database.write() as connection:
            create_tenant(connection, "other", "Other")
        batch_id = queue_batch(api.database, ["a"], tenant_id="other")
    answer = api.client.get(f"/v1/batches/{batch_id}/{kind}")
    assert (answer.status_code, answer.json()["code"]) == (404, "not_found")


def test_head_makes_no_lines(api: Api) -> None:
    answer = api.client.head(URL.format(queue_batch(api.database, ["a"])))
    assert (answer.status_code, answer.content) == (200, b"")
    assert answer.headers["content-type"] == "application/jsonl"


def test_results_of_a_canceled_batch_are_still_there(api: Api) -> None:
    batch_id = queue_batch(api.database, ["a"])
    api.client.post(f"/v1/batches/{batch_id}/cancel")
    with api.database.write() as connection:
        connection.execute(update(batches).values(cancel_requested_at=batches.c.created_at))
    assert len(lines_of(api, batch_id)) == 1


class Reader:
    """Takes the head of an answer and so many pieces, and then nothing more."""

    def __init__(self, pieces: int, *, leaves: bool = False) -> None:
        self.taken: list[Message] = []
        self.is_cut = False
        self._pieces = pieces
        self._leaves = leaves
        self._end = asyncio.Event()

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.body" and len(self.taken) > self._pieces:
            if self._leaves:
                self._end.set()
            else:
                await asyncio.Event().wait()
        self.taken.append(message)
        await asyncio.sleep(0)

    async def receive(self) -> Message:
        await self._end.wait()
        return {"type": "http.disconnect"}

    def narrow(self) -> None:
        raise AssertionError("what is long wants its buffers")

    def abort(self) -> None:
        self.is_cut = True
        self._end.set()


class Endless:
    """Pieces without end; notes what is asked of it."""

    def __init__(self, failure: Exception | None = None, good: int = 10**9) -> None:
        self.made = 0
        self.is_closed = False
        self._failure = failure
        self._good = good

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        self.made += 1
        if self._failure is not None and self.made > self._good:
            raise self._failure
        return bytes(300_000)

    def close(self) -> None:
        self.is_closed = True


def send(pieces: Any, make_reader: Callable[[], Reader]) -> Reader:
    async def scene() -> Reader:
        reader = make_reader()
        answer = Download(pieces, media_type="x/y", threads=CapacityLimiter(1), stall_seconds=0.05)
        try:
            await answer({"type": "http", "extensions": {EXTENSION: reader}}, reader.receive, reader.send)
        except ClientDisconnect:
            return reader
        raise AssertionError("it went on to the end")

    return asyncio.run(scene())


def test_a_reader_that_takes_nothing_is_cut_off() -> None:
    pieces = Endless()
    reader = send(pieces, lambda: Reader(3))
    assert reader.is_cut
    assert pieces.is_closed
    assert pieces.made == 1


def test_nothing_more_is_made_for_a_reader_that_has_left() -> None:
    pieces = Endless()
    send(pieces, lambda: Reader(3, leaves=True))
    assert pieces.is_closed
    assert pieces.made <= 2


def test_half_an_answer_is_cut_off_and_never_ended(caplog: Any) -> None:
    pieces = Endless(Unavailable("away"), good=2)
    reader = send(pieces, lambda: Reader(10**9))
    assert reader.is_cut
    assert all(message["more_body"] for message in reader.taken[1:])
