"""The event stream of a batch, over a real connection."""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest
from sqlalchemy import delete

from common.db.engine import Database
from common.db.tables import batches
from tests.making import enlist
from tests.making_batches import develop, make_batch, queue_batch, settle
from tests.told import Told, read_told
from tests.unit.api.conftest import Api
from tests.unit.api.serving import Aside, Served, serving
from tests.waiting import wait_until

Serve = Callable[..., Served]


@pytest.fixture
def serve(database: Database, tmp_path: Path) -> Iterator[Serve]:
    with ExitStack() as stack:
        yield lambda **settings: stack.enter_context(serving(database, tmp_path, **settings))


@pytest.fixture
def served(serve: Serve) -> Served:
    return serve()


class Listener:
    """A stream of a batch that is read aside; what has been told so far can be looked at."""

    def __init__(self, served: Served, batch_id: str) -> None:
        self.told: list[Told] = []
        self.is_open = False
        self._aside = Aside(lambda: self._listen(served.url, batch_id))
        wait_until(lambda: self.is_open or not self._aside.thread.is_alive(), what="the start of the stream")

    def _listen(self, url: str, batch_id: str) -> bool:
        with (
            httpx.Client(base_url=url, timeout=20, trust_env=False) as client,
            client.stream("GET", f"/v1/batches/{batch_id}/events") as answer,
        ):
            assert answer.headers["content-type"].startswith("text/event-stream")
            self.is_open = True
            for event in read_told(answer.iter_lines()):
                self.told.append(event)
        return True

    def until(self, condition: Callable[[Told], object]) -> Told:
        """The first event like this, once it has come."""
        wait_until(lambda: any(map(condition, list(self.told))), what="the event")
        return next(filter(condition, self.told))

    def end(self) -> list[Told]:
        """Everything, once the stream has ended in good order."""
        assert self._aside.answer()
        return self.told


def get(served: Served, batch_id: str, after: str | None = None) -> httpx.Response:
    headers = {"Last-Event-ID": after} if after else {}
    return served.client.get(f"/v1/batches/{batch_id}/events", headers=headers)


def test_a_stream_goes_from_the_batch_as_it_is_over_its_progress_to_its_end(served: Served, database: Database) -> None:
    batch_id = queue_batch(database, ["a", "b"])
    worker = enlist(database)
    listener = Listener(served, batch_id)
    first = listener.until(lambda event: event.kind == "status")
    assert (first.id, first.data["status"], first.data["batch"]["counts"]["queued"]) == ("2.0", "running", 2)
    develop(database, worker)
    progress = listener.until(lambda event: event.kind == "progress" and event.data["counts"]["succeeded"] == 1)
    assert progress.place > first.place
    assert progress.data["lines"] == {"total": 2, "validated": 2, "inserted": 2}
    develop(database, worker)
    settle(database, batch_id)
    *_, status, done = listener.end()
    assert (status.kind, status.id, status.data) == (
        "status",
        "3.0",
        {"id": batch_id, "status": "completed", "version": 3},
    )
    assert (done.kind, done.id) == ("done", "3.1")
    assert done.data == served.client.get(f"/v1/batches/{batch_id}").json()
    places = [event.place for event in listener.told]
    assert places == sorted(set(places))


def test_a_stream_of_a_batch_that_is_over_tells_it_and_ends(served: Served, database: Database) -> None:
    batch_id = queue_batch(database, [None])
    settle(database, batch_id)
    told = list(read_told(get(served, batch_id).text.splitlines()))
    assert [(event.kind, event.id) for event in told] == [("status", "3.0"), ("done", "3.1")]
    assert told[0].data["batch"] == told[1].data


def test_who_has_heard_the_end_is_sent_away(served: Served, database: Database) -> None:
    batch_id = queue_batch(database, [None])
    settle(database, batch_id)
    assert get(served, batch_id, "3.1").status_code == 204
    assert get(served, batch_id, "3.0").status_code == 200
    assert get(served, batch_id, "4.0").status_code == 422
    assert get(served, batch_id, "x").status_code == 422


def test_many_streams_cost_no_more_looks_than_one(served: Served, database: Database) -> None:
    batch_id = queue_batch(database, ["a"])
    worker = enlist(database)
    listeners = [Listener(served, batch_id) for _ in range(12)]
    served.until_waiting(12)
    before = served.meter.reads
    develop(database, worker)
    for listener in listeners:
        listener.until(lambda event: event.kind == "progress" and event.data["counts"]["succeeded"] == 1)
    settle(database, batch_id)
    for listener in listeners:
        assert listener.end()[-1].kind == "done"
    assert served.meter.reads - before < 30
    served.until_waiting(0)


def test_a_newcomer_brings_no_progress_to_who_listens_already(api: Api) -> None:
    batch_id = queue_batch(api.database, ["a", "b"])

    async def scene() -> None:
        watch = api.app.state.services.batch_watch
        first = watch.sight("default", batch_id)
        with watch.waiting(first) as (watched, waiter):
            develop(api.database, enlist(api.database))
            second = watch.sight("default", batch_id)
            with watch.waiting(second):
                assert watched.sighting is first
                assert not waiter._event.is_set(), "it waits for the common look"
                assert watch.find_fresh("default", batch_id) is second, "but others begin with it"
            await watch.look()
            assert waiter._event.is_set()
            assert watched.sighting.batch.counts.succeeded == 1

    asyncio.run(scene())


def test_nothing_is_told_twice_of_a_batch_that_stands_still(serve: Serve, database: Database) -> None:
    served = serve(stream_seconds=3)
    told = Listener(served, make_batch(database)).end()
    assert [event.kind for event in told] == ["status"]


def test_streams_of_batches_take_the_places_of_all_who_wait(serve: Serve, database: Database) -> None:
    served = serve(max_waiters=1, stream_seconds=5)
    batch_id = queue_batch(database, ["a"])
    Listener(served, batch_id)
    served.until_waiting(1)
    assert get(served, batch_id).status_code == 503


def test_a_stream_ends_when_its_batch_is_gone(served: Served, database: Database) -> None:
    batch_id = make_batch(database)
    listener = Listener(served, batch_id)
    listener.until(lambda event: event.kind == "status")
    with database.write() as connection:
        connection.execute(delete(batches))
    assert [event.kind for event in listener.end()] == ["status"]


def test_streams_end_when_the_process_stops(serve: Serve, database: Database) -> None:
    served = serve(linger_seconds=0)
    listener = Listener(served, queue_batch(database, ["a"]))
    listener.until(lambda event: event.kind == "status")
    served.stop()
    assert listener.end()[-1].kind == "status"


def test_a_stream_goes_on_after_the_database_was_away(served: Served, database: Database) -> None:
    batch_id = queue_batch(database, ["a"])
    listener = Listener(served, batch_id)
    listener.until(lambda event: event.kind == "status")
    served.meter.is_away = True
    develop(database, enlist(database))
    settle(database, batch_id)
    before = served.meter.reads
    wait_until(lambda: served.meter.reads > before, what="a look in vain")
    served.meter.is_away = False
    assert listener.end()[-1].kind == "done"


def test_head_starts_no_stream(served: Served, database: Database) -> None:
    answer = served.client.head(f"/v1/batches/{make_batch(database)}/events")
    assert (answer.status_code, answer.content) == (200, b"")
