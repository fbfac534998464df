"""What a forecast is made of: a bounded look at one pool. Three queries, however long its queue is."""

from typing import Any, Final

from sqlalchemy import ColumnElement, Connection, literal_column, select

from common.db.flows import virtual_time
from common.db.tables import flows, job_progress, jobs, pools, workers
from common.db.types import after_now
from common.domain.fairness import Lane, tag
from common.domain.lifecycle import JobState
from common.domain.outlook import PoolLook, QueuedJob, RunningJob

LOOK_JOBS: Final = 1000

_QUEUED: Final[ColumnElement[str]] = literal_column(f"'{JobState.QUEUED}'")  # said as the index says it
_RUNNING: Final[ColumnElement[str]] = literal_column(f"'{JobState.RUNNING}'")


def look_at_pool(connection: Connection, pool: str, fresh_seconds: float) -> PoolLook:
    """The first `LOOK_JOBS` claimable jobs in order, at most as many that run, and the ready workers.

    A worker counts with a heartbeat in the last `fresh_seconds`. What has a passed deadline or a wish to cancel is not
    left out: the sweeper ends it soon.
    """
    queued = _queued(connection, pool)
    paces, is_paused = look_at_paces(connection, pool, fresh_seconds)
    return PoolLook(
        queued=queued,
        is_cut=len(queued) == LOOK_JOBS,
        running=_running(connection, pool),
        paces=paces,
        is_paused=is_paused,
    )


def next_start(connection: Connection, *, pool: str, tenant_id: str, lane: Lane) -> float:
    """The start tag that a job of this flow would get now; draws none and locks nothing."""
    mine = (flows.c.pool == pool) & (flows.c.tenant_id == tenant_id) & (flows.c.lane == lane)
    finish = connection.execute(select(flows.c.finish).where(mine)).scalar_one_or_none() or 0.0
    return tag(flow_finish=finish, virtual_time=virtual_time(connection, pool), cost=1.0, weight=1.0).start


def _queued(connection: Connection, pool: str) -> list[QueuedJob]:
    query = (
        select(jobs.c.vtime, jobs.c.id, jobs.c.model, jobs.c.cost)
        .where(jobs.c.state == _QUEUED, jobs.c.held.is_(None), jobs.c.pool == pool)
        .order_by(jobs.c.vtime, jobs.c.id)
        .limit(LOOK_JOBS)
    )
    return [QueuedJob(*row) for row in connection.execute(query)]


def _running(connection: Connection, pool: str) -> list[RunningJob]:
    newest = (job_progress.c.job_id == jobs.c.id) & (job_progress.c.fence == jobs.c.fence)
    query = (
        select(jobs.c.model, jobs.c.cost, job_progress.c.step, job_progress.c.steps)
        .outerjoin(job_progress, newest)
        .where(jobs.c.state == _RUNNING, jobs.c.pool == pool)
        .limit(LOOK_JOBS)
    )
    return [
        RunningJob(model, cost, min(1.0, step / steps) if steps else 0.0)
        for model, cost, step, steps in connection.execute(query)
    ]


def look_at_paces(connection: Connection, pool: str, fresh_seconds: float) -> tuple[list[dict[str, float]], bool]:
    """What each worker has measured that may claim now, and whether the pool is paused, which nobody asks alone.

    A worker counts with a heartbeat in the last `fresh_seconds`.
    """
    paused = select(pools.c.name).where(pools.c.name == pool, pools.c.paused_at.is_not(None)).exists()
    alive = (workers.c.heartbeat_at > after_now(-fresh_seconds)) & workers.c.ended.is_(None)
    ready = (workers.c.pool == pool) & (workers.c.state == "ready") & alive
    rows = connection.execute(select(workers.c.paces, paused).where(ready)).all()
    return [_numbers(paces) for paces, _ in rows], any(is_paused for _, is_paused in rows)


def _numbers(paces: Any) -> dict[str, float]:
    """What another release may write instead of a number is left out."""
    told = paces.items() if isinstance(paces, dict) else ()
    return {model: float(pace) for model, pace in told if isinstance(pace, int | float) and pace > 0}
