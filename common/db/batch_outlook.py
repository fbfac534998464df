"""The look at a batch that its outlook is made of: it reads a sample, however many of its jobs wait."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Final

from sqlalchemy import Connection, Row, func, select
from sqlalchemy.sql.elements import ColumnElement

from common.db.flows import virtual_time
from common.db.outlook import LOOK_JOBS
from common.db.tables import flows, job_progress, jobs, tenants
from common.domain.batch import BatchSnapshot
from common.domain.batch_outlook import Flow, Part, Share
from common.domain.fairness import LANE_WEIGHT, Lane
from common.domain.lifecycle import JobState
from common.domain.outlook import RunningJob

SAMPLE: Final = 1000

_COLUMNS = (jobs.c.id, jobs.c.pool, jobs.c.model, jobs.c.cost, jobs.c.vtime)


def look_at_batch(connection: Connection, batch: BatchSnapshot) -> list[Part]:
    """What the batch has in every pool where jobs of it wait or run; at most `LOOK_JOBS` running ones are seen.

    Of its claimable jobs the first and the last `SAMPLE` are read, and as many held ones; the others count as these do:
    held ones are counted then, and the rest of the snapshot's waiting ones may be claimed. Jobs of a batch are tagged
    in the order of their ids, so that the first is among them.
    """
    free, held = _claimable(connection, batch.id), _held(connection, batch.id)
    standing = batch.counts.queued - (batch.total - batch.inserted)
    held_count = _count_held(connection, batch.id) if len(held) == SAMPLE else len(held)
    held_weight = held_count / len(held) if held else 1.0
    free_weight = max(1.0, (standing - held_count) / len(free)) if len(free) == 2 * SAMPLE else 1.0
    running = _running(connection, batch.id)
    pools = sorted({row.pool for row in (*free, *held, *running)})
    return [
        replace(
            _part(connection, batch, pool, _of_pool(running, pool)),
            waiting=_shares([(row, free_weight) for row in free], [(row, held_weight) for row in held], pool),
            first=min(((row.vtime, row.id) for row in free if row.pool == pool), default=None),
            last=max((row.vtime for row in (*free, *held) if row.pool == pool), default=0.0),
        )
        for pool in pools
    ]


def _claimable(connection: Connection, batch_id: str) -> list[Row[Any]]:
    """The first and the last in the order of their ids, each once."""
    mine = (jobs.c.batch_id == batch_id) & (jobs.c.state == JobState.QUEUED) & jobs.c.held.is_(None)
    query = select(*_COLUMNS).where(mine).limit(SAMPLE)
    # As the index has it: `held` is null in all of them.
    orders = ((jobs.c.held, jobs.c.id), (jobs.c.held.desc(), jobs.c.id.desc()))
    found: dict[str, Row[Any]] = {}
    for order in orders:
        found |= {row.id: row for row in connection.execute(query.order_by(*order))}
    return list(found.values())


def _held(connection: Connection, batch_id: str) -> list[Row[Any]]:
    return list(connection.execute(select(*_COLUMNS).where(_is_held(batch_id)).limit(SAMPLE)))


def _count_held(connection: Connection, batch_id: str) -> int:
    """Of an index alone, see `ix_jobs_batch_state`."""
    query = select(func.count()).select_from(jobs).where(_is_held(batch_id))
    return int(connection.execute(query).scalar_one())


def _is_held(batch_id: str) -> ColumnElement[bool]:
    return (jobs.c.batch_id == batch_id) & (jobs.c.state == JobState.QUEUED) & jobs.c.held.is_not(None)


def _shares(free: list[tuple[Row[Any], float]], held: list[tuple[Row[Any], float]], pool: str) -> list[Share]:
    """The waiting jobs of the pool by model; each row stands for as many as its weight."""
    totals: dict[str, list[float]] = {}
    for rows, is_free in ((free, True), (held, False)):
        for row, weight in rows:
            if row.pool == pool:
                total = totals.setdefault(row.model, [0.0, 0.0, 0.0])
                for at, value in enumerate((weight, row.cost * weight, row.cost * weight * is_free)):
                    total[at] += value
    return [Share(model, *total) for model, total in sorted(totals.items())]


def _running(connection: Connection, batch_id: str) -> list[Row[Any]]:
    newest = (job_progress.c.job_id == jobs.c.id) & (job_progress.c.fence == jobs.c.fence)
    query = (
        select(jobs.c.pool, jobs.c.model, jobs.c.cost, job_progress.c.step, job_progress.c.steps)
        .outerjoin(job_progress, newest)
        .where(jobs.c.batch_id == batch_id, jobs.c.state == JobState.RUNNING)
        .limit(LOOK_JOBS)
    )
    return list(connection.execute(query))


def _of_pool(running: Sequence[Row[Any]], pool: str) -> list[RunningJob]:
    return [
        RunningJob(row.model, row.cost, min(1.0, row.step / row.steps) if row.steps else 0.0)
        for row in running
        if row.pool == pool
    ]


def _part(connection: Connection, batch: BatchSnapshot, pool: str, running: list[RunningJob]) -> Part:
    return Part(
        pool=pool,
        running=running,
        flows=_flows(connection, batch, pool),
        virtual_time=virtual_time(connection, pool),
    )


def _flows(connection: Connection, batch: BatchSnapshot, pool: str) -> list[Flow]:
    query = (
        select(flows.c.tenant_id, flows.c.lane, flows.c.finish, tenants.c.weight)
        .join(tenants, tenants.c.id == flows.c.tenant_id)
        .where(flows.c.pool == pool)
    )
    own = (batch.tenant_id, batch.lane)
    return [
        Flow(row.weight * LANE_WEIGHT[Lane(row.lane)], row.finish, is_own=(row.tenant_id, row.lane) == own)
        for row in connection.execute(query)
    ]
