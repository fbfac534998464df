"""The results of a batch over the API: line by line, from where a client stopped, and to readers of all kinds."""

import asyncio
import json
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from anyio import CapacityLimiter
from sqlalchemy import update
from starlette.requests import ClientDisconnect
from starlette.types import Message

from api.live.connection import EXTENSION
from api.live.download import Download
from api.live.room import WaitingRoom
from api.metrics import Metrics
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
    made = {"job": job_id, "status": "succeeded", "images": job["images"], "error": None}
    assert done == {"line": 0, "custom_id": "a"} | made
    assert wrong == {"line": 1, "custom_id": None, "job": None, "status": "failed", "images": [], "error": WRONG}
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


def test_lines_go_on_behind_a_line_without_a_custom_id(api: Api) -> None:
    batch_id = queue_batch(api.database, ["a", None, "b", None])
    for line in range(4):
        assert [one["line"] for one in lines_of(api, batch_id, after_line=line)] == list(range(line + 1, 4))
    assert lines_of(api, batch_id, after_line=99_999) == []


@pytest.mark.parametrize(
    ("query", "pointer"),
    [
        ({"after": "a", "after_line": 0}, "/query/after_line"),
        ({"after_line": -1}, "/query/after_line"),
        ({"after_line": 100_000}, "/query/after_line"),
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


def download(pieces: Any, room: WaitingRoom | None = None, threads: CapacityLimiter | None = None) -> Download:
    return Download(
        pieces,
        media_type="x/y",
        room=room or WaitingRoom(1, Metrics()),
        threads=threads or CapacityLimiter(1),
        stall_seconds=0.05,
    )


def send(pieces: Any, make_reader: Callable[[], Reader]) -> Reader:
    async def scene() -> Reader:
        reader = make_reader()
        answer = download(pieces)
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


class Empty(Endless):
    """Pieces without end and without a byte, as the archive makes them of lines without images."""

    def __next__(self) -> bytes:
        self.made += 1
        time.sleep(0.01)
        return b""


def test_who_leaves_an_answer_that_has_no_byte_yet_is_noticed() -> None:
    pieces = Empty()
    reader = send(pieces, LeavesAtHead)
    assert [message["type"] for message in reader.taken] == ["http.response.start"], "the head did not wait"
    assert pieces.is_closed
    assert pieces.made < 100


class LeavesAtHead(Reader):
    """Leaves once it has the head."""

    def __init__(self) -> None:
        super().__init__(10**9)

    async def send(self, message: Message) -> None:
        await super().send(message)
        self._end.set()


def test_who_has_left_takes_no_turn_of_the_others() -> None:
    async def scene() -> list[Empty]:
        threads, room = CapacityLimiter(1), WaitingRoom(50, Metrics())
        given = [Empty() for _ in range(20)]
        readers = [Reader(0) for _ in given]
        for reader in readers:
            reader.abort()  # its disconnect is there before its answer
        answers = [
            download(pieces, room, threads)({"type": "http"}, reader.receive, reader.send)
            for pieces, reader in zip(given, readers, strict=True)
        ]
        assert all(isinstance(one, ClientDisconnect) for one in await asyncio.gather(*answers, return_exceptions=True))
        return given

    given = asyncio.run(scene())
    assert all(pieces.is_closed for pieces in given)
    assert sum(pieces.made for pieces in given) < 20


def test_there_are_as_many_downloads_at_once_as_there_are_places() -> None:
    async def scene() -> None:
        room, pieces = WaitingRoom(1, Metrics()), Endless()
        with room.seat("stream"), pytest.raises(Unavailable):
            await download(pieces, room)({"type": "http"}, Reader(3).receive, Reader(3).send)
        assert pieces.made == 0

    asyncio.run(scene())


@pytest.mark.parametrize("kind", ["results", "archive"])
def test_a_download_needs_a_place_in_the_waiting_room(api: Api, kind: str) -> None:
    batch_id = queue_batch(api.database, ["a"])
    api.app.state.services.room._max_waiters = 0
    answer = api.client.get(f"/v1/batches/{batch_id}/{kind}")
    assert (answer.status_code, answer.json()["code"]) == (503, "unavailable")
    assert api.client.head(f"/v1/batches/{batch_id}/{kind}").status_code == 200
