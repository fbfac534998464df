"""Batches for tests of their SQL: handed in, taken, accepted, and filled with jobs."""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import func, select, update

from common.db import batch_work
from common.db.batch_work import BatchWork, NewItem
from common.db.batches import NewBatch, find_batch, insert_batch
from common.db.engine import Database
from common.db.tables import batch_items, batches, jobs
from common.domain.batch import BatchSnapshot
from common.domain.fairness import Lane
from common.domain.job import NewJob
from common.domain.lifecycle import JobState
from common.ids import new_id
from tests.making import make_job

LEASE = 30.0


def even(_pool: str, _model: str) -> float:
    """Nobody has measured anything."""
    return 1.0


def hand_in(database: Database, total: int, **changes: Any) -> str:
    """The id of a batch that is to be validated."""
    request = {"defaults": {}, "on_invalid": "reject", "metadata": {"of": "a test"}}
    members: dict[str, Any] = {"tenant_id": "default", "name": None, "lane": Lane.LOW, "manifest_key": "manifests/one"}
    new = NewBatch(id=new_id("bat"), total=total, request=request, **members | changes)
    with database.write() as connection:
        insert_batch(connection, new)
    return new.id


def take(database: Database, lease_seconds: float = LEASE) -> BatchWork | None:
    """What a courier gets to tend."""
    with database.write() as connection:
        return batch_work.take(connection, lease_seconds)


def start(database: Database, total: int, **changes: Any) -> BatchWork:
    """A batch that runs, held by a courier, with no line inserted."""
    batch_id = hand_in(database, total, **changes)
    work = take(database)
    assert work is not None
    assert work.id == batch_id
    with database.write() as connection:
        assert batch_work.accept(connection, work)
    return work


def make_items(first: int, count: int, **changes: Any) -> list[NewItem]:
    """Consecutive lines with jobs."""
    chosen = {"lane": Lane.LOW} | changes
    return [NewItem(line, f"img-{line}", make_job(**chosen)) for line in range(first, first + count)]


def put(database: Database, work: BatchWork, items: Sequence[NewItem]) -> dict[str, int] | None:
    """One chunk."""
    with database.write() as connection:
        return batch_work.insert_items(connection, work, items, LEASE)


def fill(database: Database, count: int, **changes: Any) -> tuple[BatchWork, list[NewJob]]:
    """A running batch of so many jobs, all inserted."""
    work = start(database, count)
    items = make_items(0, count, **changes)
    assert put(database, work, items) is not None
    return work, [item.job for item in items if item.job is not None]


def look(database: Database, batch_id: str) -> BatchSnapshot:
    """The batch as it is now."""
    with database.read() as connection:
        found = find_batch(connection, "default", batch_id)
    assert found is not None
    return found


def jobs_where(database: Database, batch_id: str, *conditions: Any) -> int:
    """How many of its jobs are so."""
    query = select(func.count()).where(jobs.c.batch_id == batch_id, *conditions)
    with database.read() as connection:
        return int(connection.execute(query).scalar_one())


def items_of(database: Database, batch_id: str) -> list[Any]:
    """Its items in order."""
    query = select(batch_items).where(batch_items.c.batch_id == batch_id).order_by(batch_items.c.line)
    with database.read() as connection:
        return list(connection.execute(query))


def states_of(database: Database, batch_id: str) -> dict[JobState, int]:
    """How many of its jobs are in which state, counted one by one."""
    with database.read() as connection:
        query = select(jobs.c.state, func.count()).where(jobs.c.batch_id == batch_id).group_by(jobs.c.state)
        return {JobState(state): count for state, count in connection.execute(query)}


def let_go(database: Database, batch_id: str) -> None:
    """Its courier is lost, and it is due now."""
    with database.write() as connection:
        values = {"worker_id": None, "lease_until": None}
        connection.execute(update(batches).where(batches.c.id == batch_id).values(values))


def note_drawn(database: Database, work: BatchWork) -> None:
    """What its courier says after drawing together, as it sees the batch now."""
    with database.write() as connection:
        seen = batch_work.look_again(connection, work, LEASE)
        assert seen is not None
        assert batch_work.note_retagged(connection, seen)
