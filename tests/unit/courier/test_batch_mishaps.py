"""What goes wrong with a batch, in the courier or around it, ends: neither the batch nor the courier hangs on it."""

from typing import Any

import pytest
from sqlalchemy import select, text

from common.db import batch_wishes as wishes_in_sql
from common.db.batch_wishes import cancel_batch, pause_batch
from common.db.batch_work import take
from common.db.engine import Database
from common.db.tables import batches
from common.domain.batch import BatchState
from common.domain.errors import Unavailable
from common.storage.port import StoreUnavailable
from courier import batch_turns, batch_wishes, batch_writing
from courier import batches as errand
from courier.batch_lines import LineReader
from courier.batch_manifest import Manifest
from courier.batch_turns import LeaseLost, Turn
from courier.batch_wishes import follow_wishes
from courier.batches import tend_batch
from courier.tools import Tools
from tests.unit.courier.batching import Maker, hand_in, items_of, jobs_of, look, make_due, tend
from tests.unit.courier.test_batch_insertion import COMMITTED, WRITTEN, at, change, failed_batch


@pytest.fixture
def tools(make_tools: Maker, database: Database) -> Tools:
    return make_tools(database=database)


def fail(*_: object, **__: object) -> Any:
    raise RuntimeError("a mistake of ours")


def count_claimable(tools: Tools) -> int:
    with tools.database.read() as connection:
        query = "SELECT count(*) FROM jobs WHERE state = 'queued' AND held IS NULL"
        return int(connection.execute(text(query)).scalar_one())


def test_names_that_no_database_can_hold_are_told_escaped(tools: Tools) -> None:
    lines = ['{"a\\u0000": 1}', '{"\\ud800": 1}', '{"output": {"\\u0000": 1}}']
    batch_id = hand_in(tools, lines)
    tend(tools)
    found = look(tools, batch_id)
    assert found.state is BatchState.REJECTED
    assert [one["pointer"] for one in found.errors] == ["/a\\u0000", "/\\ud800", "/output/\\u0000"]


@pytest.mark.parametrize("wish", [pause_batch, cancel_batch])
def test_what_is_wished_while_a_batch_is_inserted_is_done_with_the_next_chunk(
    tools: Tools, monkeypatch: pytest.MonkeyPatch, wish: Any
) -> None:
    monkeypatch.setattr(wishes_in_sql, "AT_ONCE", 1)
    batch_id, left = hand_in(tools, [{}] * 8), list[int]()

    def hit(place: str) -> None:
        if place == COMMITTED and not left:
            change(tools, wish, batch_id)
        if place in (COMMITTED, WRITTEN) and count_claimable(tools):
            left.append(count_claimable(tools))

    monkeypatch.setattr(batch_writing.failpoints, "hit", hit)
    tend(tools, chunk=4, turns=1)
    assert left == [3]
    assert look(tools, batch_id).inserted == 8


def test_a_wish_is_done_although_the_manifest_is_away(tools: Tools, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wishes_in_sql, "AT_ONCE", 1)
    batch_id = hand_in(tools, [{}] * 8)
    with monkeypatch.context() as patch:
        patch.setattr(batch_writing.failpoints, "hit", at(COMMITTED, 1, tools.stop.set))
        tend(tools, chunk=4, turns=1)
    tools.stop.clear()
    change(tools, cancel_batch, batch_id)
    assert count_claimable(tools) == 3

    def away(key: str) -> None:
        raise StoreUnavailable(key, "away")

    with monkeypatch.context() as patch:
        patch.setattr(type(tools.store), "stream", lambda _, key: away(key))
        tend(tools)
        assert (count_claimable(tools), look(tools, batch_id).inserted) == (0, 4)
    tend(tools)
    assert look(tools, batch_id).state is BatchState.CANCELED


@pytest.mark.parametrize("is_retry", [False, True])
def test_of_a_canceled_batch_only_the_ids_are_read(
    tools: Tools, monkeypatch: pytest.MonkeyPatch, is_retry: bool
) -> None:
    lines: list[Any] = [{"custom_id": f"{number}"} for number in range(4)]
    request: dict[str, Any] = {}
    if is_retry:
        old_id, job_ids = failed_batch(tools, lines)
        lines = [{"custom_id": f"{number}", "retry_of": job_id} for number, job_id in enumerate(job_ids)]
        request = {"retry_of": old_id}
    batch_id = hand_in(tools, lines, **request)

    def cancel() -> None:
        change(tools, cancel_batch, batch_id)
        monkeypatch.setattr(LineReader, "read", fail)

    monkeypatch.setattr(batch_writing.failpoints, "hit", at(COMMITTED, 1, cancel))
    tend(tools, chunk=2)
    assert look(tools, batch_id).state is BatchState.CANCELED
    assert [item.custom_id for item in items_of(tools, batch_id)] == ["0", "1", "2", "3"]


def test_no_more_threads_tend_batches_than_may(tools: Tools) -> None:
    hand_in(tools, [{}])
    assert tools.batch_turns.acquire(blocking=False)
    assert tend_batch(tools) == 0
    tools.batch_turns.release()
    assert tend_batch(tools) == 1
    assert tools.batch_turns.acquire(blocking=False)


def test_a_chunk_is_bounded_by_its_bytes_too(tools: Tools, monkeypatch: pytest.MonkeyPatch) -> None:
    hits: list[str] = []
    monkeypatch.setattr(batch_writing, "MOST_CHUNK_BYTES", 100)
    monkeypatch.setattr(batch_writing.failpoints, "hit", hits.append)
    batch_id = hand_in(tools, [{}] * 4)
    tend(tools, turns=1)
    assert len(jobs_of(tools, batch_id)) == 4
    assert hits.count(COMMITTED) == 2  # the defaults have about 80 bytes


def test_a_batch_that_cannot_be_checked_is_rejected_in_the_end(tools: Tools, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(LineReader, "read", fail)
    batch_id = hand_in(tools, [{}] * 3)
    tend(tools, turns=5)
    assert look(tools, batch_id).state is BatchState.VALIDATING
    tend(tools, turns=1)
    found = look(tools, batch_id)
    assert (found.state, [one["code"] for one in found.errors]) == (BatchState.REJECTED, ["internal"])


def test_lines_that_cannot_be_inserted_are_given_up_and_the_others_go_on(
    tools: Tools, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch_id = hand_in(tools, [{}] * 6)
    write = batch_writing.insert_items

    def insert(connection: Any, work: Any, items: Any, lease_seconds: float) -> Any:
        return fail() if items[0].job and items[0].line == 2 else write(connection, work, items, lease_seconds)

    monkeypatch.setattr(batch_writing, "insert_items", insert)
    tend(tools, chunk=2, turns=8)
    errors = [item.error and item.error["code"] for item in items_of(tools, batch_id)]
    assert errors == [None, None, "internal", "internal", None, None]


def test_a_canceled_batch_that_cannot_be_inserted_is_over_all_the_same(
    tools: Tools, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch_id = hand_in(tools, [{}] * 4)
    monkeypatch.setattr(batch_writing, "read_custom_id", fail)
    cancel = at(COMMITTED, 1, lambda: change(tools, cancel_batch, batch_id))
    monkeypatch.setattr(batch_writing.failpoints, "hit", cancel)
    tend(tools, chunk=2, turns=3)
    found = look(tools, batch_id)
    assert (found.state, found.counts.canceled) == (BatchState.CANCELED, 4)


def test_the_lease_is_held_while_the_lines_before_the_cursor_are_read(
    tools: Tools, monkeypatch: pytest.MonkeyPatch
) -> None:
    hand_in(tools, [{}] * 4)
    with tools.database.write() as connection:
        work = take(connection, 30)
    assert work is not None
    turn, held = Turn(tools, work, 5), list[None]()
    Manifest(tools.store, work, 3, lambda: held.append(None))
    assert len(held) == 3
    make_due(tools.database)  # now it is another's
    turn.hold_on()
    began = batch_turns.monotonic_seconds()
    monkeypatch.setattr(batch_turns, "monotonic_seconds", lambda: began + 10)
    with pytest.raises(LeaseLost):
        turn.hold_on()


def test_a_batch_of_which_many_jobs_wait_is_looked_at_less_often(tools: Tools, monkeypatch: pytest.MonkeyPatch) -> None:
    hand_in(tools, [{}] * 4)
    tend(tools)
    make_due(tools.database)
    with tools.database.write() as connection:
        work = take(connection, 30)
    assert work is not None
    turn = Turn(tools, work, 5)
    assert follow_wishes(turn) == tools.settings.poll_seconds
    monkeypatch.setattr(batch_wishes, "_MANY", 3)
    assert follow_wishes(turn) == 10


def test_a_batch_is_let_go_when_a_service_is_away(tools: Tools, monkeypatch: pytest.MonkeyPatch) -> None:
    def away(*_: object) -> None:
        raise Unavailable("away")

    monkeypatch.setattr(errand, "validate_lines", away)
    hand_in(tools, [{}])
    with pytest.raises(Unavailable):
        tend_batch(tools)
    with tools.database.read() as connection:
        assert connection.execute(select(batches.c.worker_id)).scalar_one() is None
