"""Which jobs a claim takes: the order of service, as SQL."""

from collections.abc import Sequence
from typing import Any, Literal

from sqlalchemy import ColumnElement, Connection, literal_column, select, union_all, update

from common.db.tables import jobs, pools
from common.db.types import now
from common.domain.affinity import AFFINITY_JOBS, Waiting
from common.domain.fairness import Lane
from common.domain.lifecycle import JobState

Company = Literal["call", "step"]

_ORDER = (jobs.c.vtime, jobs.c.id)


def choose(pool: str, limit: int, *, alone: bool, company: Company, urgent: bool, preferred: Sequence[str] = ()) -> Any:
    """A select of the ids that one claim takes: the head of the queue and up to `limit - 1` of its company, locked.

    `alone`: the worker holds nothing, and may take a head that must run by itself. `urgent`: only the lane `high`.
    `preferred`: the first of these that can be had is the head.
    """
    claimable = _claimable(pool)
    if urgent:  # said as the index says it
        claimable &= jobs.c.lane == literal_column("'high'")
    if urgent and not alone:  # such a head would keep those behind it waiting until a worker is empty
        claimable &= ~jobs.c.solo
    paused = select(pools.c.name).where(pools.c.name == pool, pools.c.paused_at.is_not(None)).exists()
    head = _head(claimable & ~paused, preferred)
    alike = (jobs.c.step_key == select(head.c.step_key).where(~head.c.solo).scalar_subquery()) & (
        jobs.c.id != select(head.c.id).scalar_subquery()
    )
    if company == "call":
        alike &= jobs.c.call_key == select(head.c.call_key).scalar_subquery()
    others = (
        select(jobs.c.id)
        .where(claimable, ~jobs.c.solo, alike)
        .order_by(*_ORDER)
        .limit(limit - 1)
        .with_for_update(skip_locked=True)
        .cte("others")
    )
    may_take_head = select(head.c.id) if alone else select(head.c.id).where(~head.c.solo)
    return may_take_head.union_all(select(others.c.id))


def look_ahead(connection: Connection, pool: str) -> list[Waiting]:
    """The first claimable jobs in order, as many as affinity looks at; locks nothing, not even a paused pool's."""
    columns = (jobs.c.id, jobs.c.vtime, jobs.c.model, jobs.c.lane, jobs.c.solo, jobs.c.passed_over_since)
    query = select(*columns, now().label("database_now")).where(_claimable(pool)).order_by(*_ORDER)
    return [
        Waiting(
            id=row.id,
            vtime=row.vtime,
            model=row.model,
            lane=Lane(row.lane),
            solo=row.solo,
            passed_over_seconds=None
            if row.passed_over_since is None
            else (row.database_now - row.passed_over_since).total_seconds(),
        )
        for row in connection.execute(query.limit(AFFINITY_JOBS))
    ]


def pass_over(connection: Connection, job_id: str) -> None:
    """A claim took another job before this one: note the first time. Waits for nobody who is just taking it."""
    unmarked = (jobs.c.id == job_id) & (jobs.c.state == JobState.QUEUED) & jobs.c.passed_over_since.is_(None)
    free = select(jobs.c.id).where(unmarked).with_for_update(skip_locked=True)
    connection.execute(update(jobs).where(jobs.c.id.in_(free)).values(passed_over_since=now()))


def _head(claimable: ColumnElement[bool], preferred: Sequence[str]) -> Any:
    """The first in order, or of the preferred ones if any of those can be had; locked."""
    columns = select(jobs.c.id, jobs.c.step_key, jobs.c.call_key, jobs.c.solo)
    first = columns.where(claimable).order_by(*_ORDER).limit(1).with_for_update(skip_locked=True)
    if not preferred:
        return first.cte("head")
    wanted = first.where(jobs.c.id.in_(preferred), ~jobs.c.solo).cte("wanted")
    otherwise = first.where(~select(wanted.c.id).exists()).cte("otherwise")
    return union_all(select(wanted), select(otherwise)).cte("head")


def _claimable(pool: str) -> ColumnElement[bool]:
    return (
        (jobs.c.state == JobState.QUEUED)
        & jobs.c.held.is_(None)
        & (jobs.c.pool == pool)
        & (jobs.c.deadline_at > now())
        & jobs.c.cancel_requested_at.is_(None)
    )
