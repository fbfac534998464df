"""What a courier does with a batch that it holds: check its lines, insert its jobs, see whether it is over.

A batch is taken under a lease, and the holder's name is fresh for every take: it fences every write. Two cursors say
how far it is, `validated` and `inserted`, so that another courier goes on where a lost one was.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import Connection, Row, exists, func, or_, select, update
from sqlalchemy.sql.elements import ColumnElement

from common.db.batch_chunks import NewItem, insert_chunk
from common.db.batch_moves import move_batch
from common.db.tables import batches, jobs
from common.db.types import after_now, now
from common.domain.batch import BatchState
from common.domain.fairness import Lane
from common.domain.lifecycle import JobState
from common.ids import new_id

__all__ = [
    "BatchWork",
    "NewItem",
    "accept",
    "insert_items",
    "look_again",
    "note_retagged",
    "note_validated",
    "put_back",
    "reject",
    "renew",
    "settle_batch",
    "take",
]

_ACTIVE: Final = (BatchState.RUNNING, BatchState.PAUSED)
_COPIED: Final = ("id", "tenant_id", "version", "total", "validated", "inserted", "manifest_key", "request", "retry_of")


@dataclass(frozen=True, slots=True)
class BatchWork:
    """A batch that this courier holds, as it was at the look: `holder` proves that in every later write.

    `errors` are the first line errors as documents, `error_count` how many there are so far.
    """

    id: str
    tenant_id: str
    state: BatchState
    version: int
    lane: Lane
    total: int
    validated: int
    inserted: int
    manifest_key: str
    request: dict[str, Any]
    errors: list[dict[str, Any]]
    error_count: int
    cancel_requested: bool
    is_retagged: bool
    retry_of: str | None
    holder: str


def take(connection: Connection, lease_seconds: float) -> BatchWork | None:
    """The batch that has been due for longest and that nobody holds, now held by a fresh holder; None: none is due."""
    is_free = or_(batches.c.lease_until.is_(None), batches.c.lease_until < now())
    due = (
        select(batches.c.id)
        .where(batches.c.tend_at <= now(), is_free)
        .order_by(batches.c.tend_at)
        .limit(1)
        .with_for_update(skip_locked=True)
        .cte("due")
    )
    values = {"worker_id": new_id("wrk"), "lease_until": after_now(lease_seconds)}
    statement = update(batches).where(batches.c.id == due.c.id).values(values).returning(*batches.c)
    row = connection.execute(statement).one_or_none()
    return None if row is None else _work(row)


def renew(connection: Connection, work: BatchWork, lease_seconds: float) -> bool:
    """A new lease; False when the batch is no longer ours."""
    return _write(connection, _holds(work), {"lease_until": after_now(lease_seconds)})


def look_again(connection: Connection, work: BatchWork, lease_seconds: float) -> BatchWork | None:
    """A new lease, and the batch as it is now; None when it is no longer ours."""
    values = {"lease_until": after_now(lease_seconds)}
    statement = update(batches).where(_holds(work)).values(values).returning(*batches.c)
    row = connection.execute(statement).one_or_none()
    return None if row is None else _work(row)


def note_validated(
    connection: Connection,
    work: BatchWork,
    validated: int,
    errors: Sequence[dict[str, Any]],
    error_count: int,
    lease_seconds: float,
) -> bool:
    """So many lines have been checked, with these first errors of so many in all. False when it is no longer ours."""
    values = {"validated": validated, "lease_until": after_now(lease_seconds), "errors": _kept(errors, error_count)}
    return _write(connection, _holds(work) & (batches.c.state == BatchState.VALIDATING), values)


def accept(connection: Connection, work: BatchWork) -> bool:
    """All lines have been checked, and jobs may be inserted. False when the batch is not ours or not to be run."""
    values = {"validated": batches.c.total, "started_at": now()}
    return move_batch(connection, work.id, [BatchState.VALIDATING], BatchState.RUNNING, _holds(work), values)


def reject(connection: Connection, work: BatchWork, errors: Sequence[dict[str, Any]], error_count: int) -> bool:
    """Nothing of it will run, for these first errors of so many. False when the batch is not ours or runs already."""
    values = {"errors": _kept(errors, error_count)}
    return move_batch(connection, work.id, [BatchState.VALIDATING], BatchState.REJECTED, _holds(work), values)


def insert_items(
    connection: Connection, work: BatchWork, items: Sequence[NewItem], lease_seconds: float
) -> dict[str, int] | None:
    """The next lines, consecutive from the batch's cursor on, with their jobs; how many of these may be claimed, by
    pool. Ring their pools after the commit.

    None, and nothing is written, when the batch is no longer ours or its cursor is elsewhere. Jobs of a paused batch
    are held; once its cancel is wished, items come without jobs. Locks the batch, then its flows, then objects.
    """
    query = select(batches).where(_holds(work), batches.c.state.in_(_ACTIVE)).with_for_update()
    row = connection.execute(query).one_or_none()
    if row is None or not items or row.inserted != items[0].line:
        return None
    claimable = insert_chunk(
        connection,
        work.id,
        work.tenant_id,
        items,
        is_paused=row.state == BatchState.PAUSED,
        is_canceled=row.cancel_requested_at is not None,
    )
    values = {"inserted": row.inserted + len(items), "lease_until": after_now(lease_seconds)}
    _write(connection, _holds(work), values)
    return claimable


def settle_batch(connection: Connection, work: BatchWork) -> BatchState | None:
    """The terminal state that the batch comes to now: all its lines stand, and no job of it can change any more.

    `canceled` if that was wished and its flows have been drawn together since, else `completed` of a running one; None
    when it is not over or not ours. A paused batch is not over before it is resumed.
    """
    changing = exists().where(jobs.c.batch_id == batches.c.id, jobs.c.state.in_([JobState.QUEUED, JobState.RUNNING]))
    is_over = _holds(work) & (batches.c.inserted == batches.c.total) & ~changing
    is_wished = batches.c.cancel_requested_at.is_not(None)
    is_followed = is_wished & batches.c.retagged_at.is_not(None)
    if move_batch(connection, work.id, _ACTIVE, BatchState.CANCELED, is_over & is_followed):
        return BatchState.CANCELED
    if move_batch(connection, work.id, [BatchState.RUNNING], BatchState.COMPLETED, is_over & ~is_wished):
        return BatchState.COMPLETED
    return None


def note_retagged(connection: Connection, work: BatchWork) -> bool:
    """The flows of a canceled or paused batch have been drawn together.

    False when it is no longer ours, or another pause or cancel has come since the look: that one is to be followed yet.
    """
    is_wished = batches.c.cancel_requested_at.is_not(None)
    is_as_seen = (batches.c.version == work.version) & (is_wished if work.cancel_requested else ~is_wished)
    return _write(connection, _holds(work) & is_as_seen, {"retagged_at": func.coalesce(batches.c.retagged_at, now())})


def put_back(connection: Connection, work: BatchWork, seconds: float | None) -> bool:
    """Let go of the batch, to be tended again after so many seconds, None: never. False when it is no longer ours."""
    tend_at = None if seconds is None else after_now(seconds)
    return _write(connection, _holds(work), {"tend_at": tend_at, "worker_id": None, "lease_until": None})


def _holds(work: BatchWork) -> ColumnElement[bool]:
    return (batches.c.id == work.id) & (batches.c.worker_id == work.holder)


def _write(connection: Connection, condition: ColumnElement[bool], values: dict[str, Any]) -> bool:
    return connection.execute(update(batches).where(condition).values(values)).rowcount == 1


def _kept(errors: Sequence[dict[str, Any]], count: int) -> dict[str, Any] | None:
    return {"first": list(errors), "count": count} if count else None


def _work(row: Row[Any]) -> BatchWork:
    errors = row.errors or {}
    return BatchWork(
        **{name: row._mapping[name] for name in _COPIED},
        state=BatchState(row.state),
        lane=Lane(row.lane),
        errors=errors.get("first", []),
        error_count=errors.get("count", 0),
        cancel_requested=row.cancel_requested_at is not None,
        is_retagged=row.retagged_at is not None,
        holder=row.worker_id,
    )
