"""Which jobs a claim takes: the order of service, as SQL."""

from collections.abc import Sequence
from typing import Any, Final, Literal

from sqlalchemy import ColumnElement, Connection, case, func, literal_column, select, union_all, update

from common.db.tables import jobs, pools
from common.db.types import now
from common.domain.affinity import AFFINITY_JOBS, Waiting
from common.domain.fairness import Lane
from common.domain.lifecycle import JobState

Company = Literal["call", "step"]

_ORDER = (jobs.c.vtime, jobs.c.id)
# Company is looked for among so many of its step key, which an index finds; calls it does not find.
_NEAR: Final[dict[Company, int]] = {"call": 256, "step": 64}


def choose(pool: str, limit: int, *, alone: bool, company: Company, urgent: bool, preferred: Sequence[str] = ()) -> Any:
    """A select of the ids that one claim takes, locked: the head of the queue, and the first of its company as long as
    the frames of all together are `limit` at most. A head that has more comes alone.

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
    may_take_head = select(head.c.id) if alone else select(head.c.id).where(~head.c.solo)
    return may_take_head if limit == 1 else may_take_head.union_all(_company(claimable, head, limit, company))


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
    columns = select(jobs.c.id, jobs.c.step_key, jobs.c.call_key, jobs.c.solo, jobs.c.frames)
    first = columns.where(claimable).order_by(*_ORDER).limit(1).with_for_update(skip_locked=True)
    if not preferred:
        return first.cte("head")
    wanted = first.where(jobs.c.id.in_(preferred), ~jobs.c.solo).cte("wanted")
    otherwise = first.where(~select(wanted.c.id).exists()).cte("otherwise")
    return union_all(select(wanted), select(otherwise)).cte("head")


def _company(claimable: ColumnElement[bool], head: Any, limit: int, company: Company) -> Any:
    """The first of the head's company in order, as long as their frames fit beside the head's; locked.

    How many is known to the query alone, and a planner that cannot see a limit may read all that is queued: so it looks
    among the first few of the head's step key.
    """
    frames = _of(head.c.frames)
    alike = (jobs.c.step_key == _of(head.c.step_key, ~head.c.solo)) & (jobs.c.id != _of(head.c.id))
    wanted = (*_ORDER, jobs.c.frames, jobs.c.call_key)
    look = max(_NEAR[company], 2 * limit)
    near = select(*wanted).where(claimable, ~jobs.c.solo, alike).order_by(*_ORDER).limit(look).cte("near")
    fitting = claimable if company == "step" else claimable & (near.c.call_key == _of(head.c.call_key))
    others = (
        select(near.c.vtime, near.c.id, near.c.frames)
        .join(jobs, jobs.c.id == near.c.id)
        .where(fitting)
        .order_by(near.c.vtime, near.c.id)
        .limit(case((frames < limit, limit - frames), else_=0))
        .with_for_update(skip_locked=True, of=jobs)
        .cte("others")
    )
    together = func.sum(others.c.frames).over(order_by=(others.c.vtime, others.c.id), rows=(None, 0))
    counted = select(others.c.id, together.label("frames")).subquery()
    return select(counted.c.id).where(counted.c.frames <= limit - frames)


def _of(column: ColumnElement[Any], *conditions: ColumnElement[bool]) -> ColumnElement[Any]:
    """This column of a CTE of one row."""
    return select(column).where(*conditions).scalar_subquery()


def _claimable(pool: str) -> ColumnElement[bool]:
    return (
        (jobs.c.state == JobState.QUEUED)
        & jobs.c.held.is_(None)
        & (jobs.c.pool == pool)
        & (jobs.c.deadline_at > now())
        & jobs.c.cancel_requested_at.is_(None)
    )
