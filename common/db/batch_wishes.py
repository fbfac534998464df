"""What is wished of a batch: pause, resume, cancel. Each changes the first jobs at once, a courier the rest.

Locks: the batch's row, then its tenant's flows, then jobs, of which those are left out that somebody else has just
locked: they are met by the next tending. Whoever moves several jobs of a flow at once holds the flow, so that no two of
them wait for each other.
"""

from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any, Final

from sqlalchemy import Connection, Row, Select, case, func, select, update
from sqlalchemy.sql.elements import ColumnElement

from common.db.batch_moves import move_batch
from common.db.cancels import cancel_unjoined, wish_cancel
from common.db.flows import draw_tags
from common.db.moves import move_jobs
from common.db.retagging import Cursor, ScaleOf, draw_together, set_tags
from common.db.tables import batches, flows, jobs
from common.db.types import now
from common.domain.batch import CHUNK, BatchState
from common.domain.errors import Conflict
from common.domain.fairness import Lane
from common.domain.lifecycle import CANCEL_QUEUED, Hold, JobState

__all__ = [
    "AT_ONCE",
    "Cursor",
    "Released",
    "ScaleOf",
    "cancel_batch",
    "cancel_some",
    "count_queued",
    "draw_together",
    "hold_some",
    "pause_batch",
    "release_some",
    "resume_batch",
]

AT_ONCE: Final = 1000
"""So many jobs a wish changes in the transaction that says it, where somebody waits for the answer."""

_ACTIVE: Final = (BatchState.RUNNING, BatchState.PAUSED)
_QUEUED: Final = jobs.c.state == JobState.QUEUED
_FREE: Final = _QUEUED & jobs.c.held.is_(None)
_PAUSED: Final = _QUEUED & (jobs.c.held == Hold.PAUSED)
_UNTOLD: Final = (jobs.c.state == JobState.RUNNING) & jobs.c.cancel_requested_at.is_(None)


@dataclass(frozen=True, slots=True)
class Released:
    """How many jobs may be claimed again, by pool: ring these after the commit."""

    pools: dict[str, int] = field(default_factory=dict)


def pause_batch(connection: Connection, tenant_id: str, batch_id: str) -> bool:
    """No job of it is to start from now on; what runs goes on. Repeating it changes nothing.

    False when the tenant has no such batch. Raises `Conflict` when it is neither running nor paused, or being canceled.
    Ring the courier after the commit.
    """
    row = _lock(connection, tenant_id, batch_id)
    if row is None:
        return False
    _refuse_unless_active(row, "paused")
    values = {"tend_at": now(), "retagged_at": None}
    move_batch(connection, batch_id, [BatchState.RUNNING], BatchState.PAUSED, _is(batch_id), values)
    hold_some(connection, batch_id, limit=AT_ONCE)
    return True


def resume_batch(connection: Connection, tenant_id: str, batch_id: str, scale: ScaleOf) -> Released | None:
    """Its jobs may be claimed again, at the end of their flows. Repeating it changes nothing.

    None when the tenant has no such batch. Raises `Conflict` when it is neither running nor paused, or being canceled.
    Ring the courier and the pools after the commit.
    """
    row = _lock(connection, tenant_id, batch_id)
    if row is None:
        return None
    _refuse_unless_active(row, "resumed")
    move_batch(connection, batch_id, [BatchState.PAUSED], BatchState.RUNNING, _is(batch_id), {"tend_at": now()})
    return release_some(connection, batch_id, scale, limit=AT_ONCE)


def cancel_batch(connection: Connection, tenant_id: str, batch_id: str) -> bool:
    """Cancel what has not started, and wish it of what runs; the batch is `canceled` when nothing of it can change.

    One that is still validated is canceled at once; one that is over stays as it is. False when the tenant has no such
    batch. Ring the courier after the commit.
    """
    if _lock(connection, tenant_id, batch_id) is None:
        return False
    is_new = batches.c.cancel_requested_at.is_(None)
    wish = {
        "cancel_requested_at": func.coalesce(batches.c.cancel_requested_at, now()),
        "retagged_at": case((is_new, None), else_=batches.c.retagged_at),
    }
    if move_batch(connection, batch_id, [BatchState.VALIDATING], BatchState.CANCELED, _is(batch_id), wish):
        return True
    may_change = _is(batch_id) & batches.c.state.in_(_ACTIVE)
    if connection.execute(update(batches).where(may_change).values(wish | {"tend_at": now()})).rowcount:
        cancel_some(connection, batch_id, limit=AT_ONCE)
    return True


def hold_some(connection: Connection, batch_id: str, *, limit: int = CHUNK) -> int:
    """Hold one chunk of the claimable jobs of a paused batch. Returns how many; 0: none is left that nobody claims."""
    if _locked_in(connection, batch_id, [BatchState.PAUSED]) is None:
        return 0
    page = _ids(connection, _some(batch_id, _FREE, limit))
    connection.execute(update(jobs).where(jobs.c.id.in_(page)).values(held=Hold.PAUSED))
    return len(page)


def release_some(connection: Connection, batch_id: str, scale: ScaleOf, *, limit: int = CHUNK) -> Released:
    """Let one chunk of the held jobs of a running batch be claimed, with new tags in their old order."""
    row = _locked_in(connection, batch_id, [BatchState.RUNNING])
    if row is None or not _is_there(connection, batch_id, _PAUSED):
        return Released()
    _lock_flows(connection, row.tenant_id)
    columns = (jobs.c.pool, jobs.c.lane, jobs.c.vtime, jobs.c.cost, jobs.c.model)
    page = list(connection.execute(_some(batch_id, _PAUSED, limit).add_columns(*columns)))
    page.sort(key=lambda one: (one.pool, one.lane, one.vtime, one.id))
    for (pool, lane), group in groupby(page, key=lambda one: (one.pool, one.lane)):
        own = list(group)
        costs = [one.cost * scale(pool, one.model) for one in own]
        tags = draw_tags(connection, pool=pool, tenant_id=row.tenant_id, lane=Lane(lane), costs=costs)
        set_tags(connection, [one.id for one in own], tags, _PAUSED, {"held": None, "passed_over_since": None})
    return Released(dict(Counter(one.pool for one in page)))


def cancel_some(connection: Connection, batch_id: str, *, limit: int = CHUNK) -> int:
    """Cancel one chunk of the jobs of a batch whose cancel is wished, as `cancel_job` does one.

    Returns how many were canceled or are wished away from their worker; 0: none is left but those. The places of their
    flows are given back by `draw_together`.
    """
    row = _locked_in(connection, batch_id, _ACTIVE)
    if row is None or row.cancel_requested_at is None:
        return 0
    if not _is_there(connection, batch_id, _QUEUED) and not _is_there(connection, batch_id, _UNTOLD):
        return 0
    _lock_flows(connection, row.tenant_id)
    queued = _ids(connection, _some(batch_id, _QUEUED, limit))
    if queued:
        wish_cancel(connection, jobs.c.id.in_(queued))
        move_jobs(connection, CANCEL_QUEUED, jobs.c.id.in_(queued))
    running = _ids(connection, _some(batch_id, _UNTOLD, limit))
    if running:
        wish_cancel(connection, jobs.c.id.in_(running))
        cancel_unjoined(connection, jobs.c.id.in_(running))
    return len(queued) + len(running)


def count_queued(connection: Connection, batch_id: str, *, most: int) -> int:
    """How many jobs of it are queued, held or not; no more than `most` are looked at."""
    page = select(jobs.c.id).where(jobs.c.batch_id == batch_id, _QUEUED).limit(most).subquery()
    return connection.execute(select(func.count()).select_from(page)).scalar_one()


def _is(batch_id: str) -> ColumnElement[bool]:
    return batches.c.id == batch_id


def _lock(connection: Connection, tenant_id: str, batch_id: str) -> Row[Any] | None:
    mine = _is(batch_id) & (batches.c.tenant_id == tenant_id)
    return connection.execute(select(batches).where(mine).with_for_update()).one_or_none()


def _locked_in(connection: Connection, batch_id: str, states: Collection[BatchState]) -> Row[Any] | None:
    """The batch, locked, if it is in one of these states: neither a wish nor a chunk of others comes between."""
    mine = _is(batch_id) & batches.c.state.in_(list(states))
    return connection.execute(select(batches).where(mine).with_for_update()).one_or_none()


def _refuse_unless_active(row: Row[Any], done: str) -> None:
    if row.cancel_requested_at is not None:
        raise Conflict(f"the batch is being or has been canceled; it cannot be {done}")
    if row.state not in _ACTIVE:
        raise Conflict(f"the batch is {row.state}; only one that is running or paused can be {done}")


def _lock_flows(connection: Connection, tenant_id: str) -> None:
    query = select(flows.c.pool).where(flows.c.tenant_id == tenant_id).order_by(flows.c.pool, flows.c.lane)
    connection.execute(query.with_for_update()).all()


def _is_there(connection: Connection, batch_id: str, condition: ColumnElement[bool]) -> bool:
    query = select(jobs.c.id).where(jobs.c.batch_id == batch_id, condition).limit(1)
    return connection.execute(query).first() is not None


def _some(batch_id: str, condition: ColumnElement[bool], limit: int) -> Select[Any]:
    """A chunk of the batch's jobs of this kind, locked, without those that somebody else has just locked.

    In the order of the index, which says who is queued, held and of which batch.
    """
    query = select(jobs.c.id).where(jobs.c.batch_id == batch_id, condition).order_by(jobs.c.held, jobs.c.id)
    return query.limit(limit).with_for_update(skip_locked=True)


def _ids(connection: Connection, query: Select[Any]) -> list[str]:
    return list(connection.execute(query).scalars())
