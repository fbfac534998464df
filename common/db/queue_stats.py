"""How full the queues are, over all tenants: totals only."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from itertools import groupby

from sqlalchemy import Connection, func, select
from sqlalchemy.sql.elements import ColumnElement

from common.db.tables import jobs, workers
from common.db.types import after_now, now
from common.domain.lifecycle import JobState


@dataclass(frozen=True, slots=True)
class Depth:
    """The queued jobs of one model in one lane of one pool, or with `model` None of all; `held` of them may not be
    claimed yet.
    """

    pool: str
    lane: str
    model: str | None
    queued: int
    held: int
    oldest_at: datetime
    seen_at: datetime


def depths(connection: Connection) -> list[Depth]:
    """Every pool, lane and model that has queued jobs, in this order. `seen_at` is the database clock."""
    query = (
        select(
            jobs.c.pool,
            jobs.c.lane,
            jobs.c.model,
            func.count().label("queued"),
            func.count(jobs.c.held).label("held"),
            func.min(jobs.c.created_at).label("oldest_at"),
            now().label("seen_at"),
        )
        .where(jobs.c.state == JobState.QUEUED)
        .group_by(jobs.c.pool, jobs.c.lane, jobs.c.model)
        .order_by(jobs.c.pool, jobs.c.lane, jobs.c.model)
    )
    return [Depth(*row) for row in connection.execute(query)]


def lane_totals(found: Iterable[Depth]) -> list[Depth]:
    """The totals of each lane over its models."""
    totals = []
    for (pool, lane), group in groupby(found, key=lambda one: (one.pool, one.lane)):
        models = list(group)
        oldest, seen = min(one.oldest_at for one in models), models[0].seen_at
        queued, held = sum(one.queued for one in models), sum(one.held for one in models)
        totals.append(Depth(pool, lane, None, queued, held, oldest, seen))
    return totals


def count_running(connection: Connection) -> dict[str, int]:
    """Running jobs by pool; a pool without any is left out."""
    query = (
        select(jobs.c.pool, func.count().label("jobs")).where(jobs.c.state == JobState.RUNNING).group_by(jobs.c.pool)
    )
    return {row.pool: row.jobs for row in connection.execute(query)}


def count_ready_workers(connection: Connection, fresh_seconds: float) -> dict[str, int]:
    """Ready workers with a heartbeat in the last `fresh_seconds`, by pool; a pool without any is left out."""
    fresh = (workers.c.state == "ready") & _lives(fresh_seconds)
    query = select(workers.c.pool, func.count().label("processes")).where(fresh).group_by(workers.c.pool)
    return {row.pool: row.processes for row in connection.execute(query)}


def count_residents(connection: Connection, fresh_seconds: float) -> dict[str, int]:
    """How many living workers have each model in memory; a model that none has is left out."""
    rows = connection.execute(select(workers.c.resident).where(_lives(fresh_seconds)))
    return dict(Counter(model for row in rows for model in row.resident))


def _lives(fresh_seconds: float) -> ColumnElement[bool]:
    return (workers.c.heartbeat_at > after_now(-fresh_seconds)) & workers.c.ended.is_(None)
