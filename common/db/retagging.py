"""New tags for jobs that wait: after others of their flow have left, and for what comes back from a pause."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import (
    ARRAY,
    Connection,
    Float,
    Row,
    Text,
    bindparam,
    func,
    literal,
    literal_column,
    or_,
    select,
    tuple_,
    union_all,
    update,
)
from sqlalchemy.sql.elements import ColumnElement

from common.db.flows import flow_weight, virtual_time
from common.db.tables import batches, flows, jobs
from common.domain.batch import CHUNK
from common.domain.fairness import Lane, Tag, Waiting, drawn_together
from common.domain.lifecycle import Hold, JobState

ScaleOf = Callable[[str, str], float]
"""By pool and model: what workers have measured / what the catalogue predicts, see `common.paces`."""

# Said as the indexes of claims and of intakes say it.
_CLAIMABLE: Final = (jobs.c.state == literal_column(f"'{JobState.QUEUED}'")) & jobs.c.held.is_(None)
_AWAITS_IMAGES: Final = jobs.c.held == literal_column(f"'{Hold.INTAKE}'")
_DELAYED: Final = jobs.c.held == literal_column(f"'{Hold.DELAYED}'")


@dataclass(frozen=True, slots=True)
class Gap:
    """What a batch may have left in its flow (pool, lane): nothing of it stood before the tag `begin`."""

    pool: str
    lane: Lane
    begin: float


@dataclass(frozen=True, slots=True)
class Cursor:
    """Where drawing together goes on: behind the job at `vtime` and `id` of the flow of the first of `gaps`, whose
    jobs so far reach to `end`.
    """

    gaps: tuple[Gap, ...]
    vtime: float
    id: str
    end: float


def draw_together(
    connection: Connection, batch_id: str, scale: ScaleOf, after: Cursor | None, *, limit: int = CHUNK
) -> Cursor | None:
    """Close the gaps that a canceled or paused batch has left in its flows, in one page of `limit` jobs in the order
    of claims.

    Begin with `after` None; returns where the next page goes on, None once all is done. Locks one flow until the
    commit: what is submitted meanwhile lands behind, where a later page meets it. Jobs of the batch that await images
    are left where they are, and what is submitted lands behind them.
    """
    tenant_id = connection.execute(select(batches.c.tenant_id).where(batches.c.id == batch_id)).scalar_one()
    cursor = after or _at_first(_gaps_of(connection, batch_id))
    if cursor is None:
        return None
    gap = cursor.gaps[0]
    mine = (flows.c.pool == gap.pool) & (flows.c.tenant_id == tenant_id) & (flows.c.lane == gap.lane)
    reach = connection.execute(select(flows.c.finish).where(mine).with_for_update()).scalar_one_or_none() or 0.0
    own = (jobs.c.pool == gap.pool) & (jobs.c.tenant_id == tenant_id) & (jobs.c.lane == gap.lane)
    page = _page(connection, own & (jobs.c.vtime <= reach), batch_id, cursor, limit)
    now = virtual_time(connection, gap.pool)
    weight = flow_weight(connection, tenant_id, gap.lane)
    waiting = [Waiting(row.vtime, row.cost * scale(gap.pool, row.model) / weight) for row in page]
    tags, end = drawn_together(waiting, end=cursor.end, virtual_time=now)
    set_tags(connection, [row.id for row in page], tags, or_(_CLAIMABLE, _AWAITS_IMAGES))
    if len(page) == limit:
        return Cursor(cursor.gaps, page[-1].vtime, page[-1].id, end)
    finish = _last_finish(connection, own, max(end, now), reach)
    connection.execute(update(flows).where(mine, flows.c.finish > finish).values(finish=finish))
    return _at_first(cursor.gaps[1:])


def set_tags(
    connection: Connection,
    ids: Sequence[str],
    tags: Sequence[Tag],
    condition: ColumnElement[bool],
    values: dict[str, Any] | None = None,
) -> None:
    """The new tags of these jobs, of those for which the condition still holds, and the same other values for all."""
    if not ids:
        return
    if connection.dialect.name == "sqlite":
        one = jobs.c.id == bindparam("one_id")
        tagged: dict[str, Any] = {"vtime": bindparam("start"), "vfinish": bindparam("finish")}
        rows = [{"one_id": name, "start": tag.start, "finish": tag.finish} for name, tag in zip(ids, tags, strict=True)]
        connection.execute(update(jobs).where(one, condition).values(tagged | (values or {})), rows)
        return
    numbers = ([tag.start for tag in tags], [tag.finish for tag in tags])
    arrays = (literal(list(ids), ARRAY(Text)), *(literal(one, ARRAY(Float)) for one in numbers))
    new = func.unnest(*arrays).table_valued("id", "start", "finish").render_derived(name="new_tags")
    statement = update(jobs).where(jobs.c.id == new.c.id, condition)
    connection.execute(statement.values({"vtime": new.c.start, "vfinish": new.c.finish} | (values or {})))


def _gaps_of(connection: Connection, batch_id: str) -> tuple[Gap, ...]:
    """In the order in which flows are locked. What has been served or runs leaves none."""
    may_be_gone = jobs.c.state.in_([JobState.QUEUED, JobState.CANCELED])
    query = (
        select(jobs.c.pool, jobs.c.lane, func.min(jobs.c.vtime).label("begin"))
        .where(jobs.c.batch_id == batch_id, may_be_gone)
        .group_by(jobs.c.pool, jobs.c.lane)
    )
    gaps = (Gap(row.pool, Lane(row.lane), row.begin) for row in connection.execute(query))
    return tuple(sorted(gaps, key=lambda gap: (gap.pool, gap.lane)))


def _at_first(gaps: tuple[Gap, ...]) -> Cursor | None:
    return Cursor(gaps, gaps[0].begin, "", gaps[0].begin) if gaps else None


def _page(
    connection: Connection, own: ColumnElement[bool], batch_id: str, cursor: Cursor, limit: int
) -> list[Row[Any]]:
    """The jobs of this flow that come next: those that may be claimed, and those of others that await images."""
    behind = tuple_(jobs.c.vtime, jobs.c.id) > tuple_(literal(cursor.vtime, Float), literal(cursor.id, Text))
    columns = (jobs.c.id, jobs.c.vtime, jobs.c.cost, jobs.c.model)
    first = select(*columns).where(own, behind).order_by(jobs.c.vtime, jobs.c.id).limit(limit)
    of_others = _AWAITS_IMAGES & jobs.c.batch_id.is_distinct_from(batch_id)
    parts = (first.where(kind).subquery() for kind in (_CLAIMABLE, of_others))
    both = union_all(*(select(part) for part in parts)).subquery()
    return list(connection.execute(select(both).order_by(both.c.vtime, both.c.id).limit(limit)))


def _last_finish(connection: Connection, own: ColumnElement[bool], end: float, reach: float) -> float:
    """Where the flow ends when what is held, and keeps its tags, counts too: no tag is given out twice."""
    between = own & jobs.c.vtime.between(end, reach)
    last = (
        select(jobs.c.vfinish).where(between, _AWAITS_IMAGES).order_by(jobs.c.vtime.desc(), jobs.c.id.desc()).limit(1)
    )
    delayed = select(func.max(jobs.c.vfinish)).where(between, _DELAYED)
    found = (connection.execute(query).scalar_one_or_none() for query in (last, delayed))
    return max(end, *(finish or 0.0 for finish in found))
