"""The order of service in SQL: virtual time of a pool, and the tag of a submitted job."""

from collections.abc import Sequence
from itertools import accumulate, pairwise
from typing import Any, Final

from sqlalchemy import Connection, case, func, select, update

from common.db.tables import flows, jobs, pools, tenants, workers
from common.db.upsert import upsert
from common.domain.fairness import LANE_WEIGHT, Lane, Tag
from common.domain.lifecycle import JobState

# A start tag is computed back from its finish tag, and so may differ in the last bits from the finish before it.
_ROUNDING: Final = 1e-15


def virtual_time(connection: Connection, pool: str) -> float:
    """The largest tag served in this pool so far; 0 for a pool that nobody served. Never goes back."""
    folded = select(pools.c.vtime).where(pools.c.name == pool).scalar_subquery()
    served = select(func.max(workers.c.served_vtime)).where(workers.c.pool == pool).scalar_subquery()
    row = connection.execute(select(func.coalesce(folded, 0.0), func.coalesce(served, 0.0))).one()
    return float(max(row))


def lock_flows(connection: Connection, *, pool: str, tenant_id: str) -> None:
    """Lock every lane that the tenant has in this pool, in order, until the commit."""
    mine = (flows.c.pool == pool) & (flows.c.tenant_id == tenant_id)
    connection.execute(select(flows.c.lane).where(mine).order_by(flows.c.lane).with_for_update()).all()


def draw_tag(connection: Connection, *, pool: str, tenant_id: str, lane: Lane, cost: float) -> Tag:
    """Advance the flow by one job of `cost` device seconds (> 0); locks the flow's row until the commit."""
    return draw_tags(connection, pool=pool, tenant_id=tenant_id, lane=lane, costs=[cost])[0]


def draw_tags(connection: Connection, *, pool: str, tenant_id: str, lane: Lane, costs: Sequence[float]) -> list[Tag]:
    """Advance the flow by jobs of these costs, one after another; locks the flow's row until the commit.

    The SQL of `common.domain.fairness.tag`, in one statement for all of them; at least one.
    """
    connection.execute(upsert(connection, pools).values(name=pool).on_conflict_do_nothing())
    weight = flow_weight(connection, tenant_id, lane)
    now = virtual_time(connection, pool)
    ends = list(accumulate(cost / weight for cost in costs))
    share = ends[-1]
    statement = upsert(connection, flows).values(pool=pool, tenant_id=tenant_id, lane=lane, finish=now + share)
    behind = case((flows.c.finish > now, flows.c.finish), else_=now) + share
    finish = connection.execute(
        statement.on_conflict_do_update(
            index_elements=[flows.c.pool, flows.c.tenant_id, flows.c.lane], set_={"finish": behind}
        ).returning(flows.c.finish)
    ).scalar_one()
    start = finish - share
    bounds = [start, *(min(finish, start + end) for end in ends[:-1]), finish]
    return [Tag(*pair) for pair in pairwise(bounds)]


def flow_weight(connection: Connection, tenant_id: str, lane: Lane) -> float:
    """The weight of the tenant's flows in this lane, > 0."""
    weight = connection.execute(select(tenants.c.weight).where(tenants.c.id == tenant_id)).scalar_one()
    return float(weight) * LANE_WEIGHT[lane]


def lock_flow_of(connection: Connection, condition: Any) -> bool:
    """Lock what a queued job that matches may give back, before the job itself is touched. False: none is queued."""
    query = select(jobs.c.pool, jobs.c.tenant_id).where(condition, jobs.c.state == JobState.QUEUED)
    row = connection.execute(query).one_or_none()
    if row is not None:
        lock_flows(connection, pool=row.pool, tenant_id=row.tenant_id)
    return row is not None


def give_back_tail(connection: Connection, job_id: str) -> None:
    """The job will not be served: if it was never tried and is the last of its flow, the flow ends before it again.

    The flow must be locked. In its midst nothing changes: later jobs keep their tags.
    """
    query = select(jobs.c.pool, jobs.c.tenant_id, jobs.c.lane, jobs.c.vtime, jobs.c.vfinish)
    row = connection.execute(query.where(jobs.c.id == job_id, jobs.c.tries == 0)).one_or_none()
    if row is None or row.vfinish is None:
        return
    mine = (flows.c.pool == row.pool) & (flows.c.tenant_id == row.tenant_id) & (flows.c.lane == row.lane)
    is_last = func.abs(flows.c.finish - row.vfinish) <= row.vfinish * _ROUNDING
    connection.execute(update(flows).where(mine, is_last).values(finish=row.vtime))
