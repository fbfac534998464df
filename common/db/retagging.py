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
    select,
    tuple_,
    update,
)
from sqlalchemy.sql.elements import ColumnElement

from common.db.flows import flow_weight, virtual_time
from common.db.tables import batches, flows, jobs
from common.domain.batch import CHUNK
from common.domain.fairness import Lane, Tag, Waiting, drawn_together
from common.domain.lifecycle import JobState

ScaleOf = Callable[[str, str], float]
"""By pool and model: what workers have measured / what the catalogue predicts, see `common.paces`."""

# Said as the index of claims says it.
_CLAIMABLE: Final = (jobs.c.state == literal_column(f"'{JobState.QUEUED}'")) & jobs.c.held.is_(None)


@dataclass(frozen=True, slots=True)
class Cursor:
    """Where drawing together goes on: behind the job at `vtime` and `id` of the first of `flows`, (pool, lane), whose
    jobs so far reach to `end`.
    """

    flows: tuple[tuple[str, Lane], ...]
    vtime: float = float("-inf")
    id: str = ""
    end: float = 0.0


def draw_together(
    connection: Connection, batch_id: str, scale: ScaleOf, after: Cursor | None, *, limit: int = CHUNK
) -> Cursor | None:
    """Close the gaps that a canceled or paused batch has left in its flows, in one page of `limit` jobs in the order of claims.

    Begin with `after` None; returns where the next page goes on, None once all is done. Locks one flow until the
    commit: what is submitted meanwhile lands behind, where a later page meets it.
    """
    tenant_id = connection.execute(select(batches.c.tenant_id).where(batches.c.id == batch_id)).scalar_one()
    cursor = after or Cursor(_flows_of(connection, batch_id))
    if not cursor.flows:
        return None
    pool, lane = cursor.flows[0]
    mine = (flows.c.pool == pool) & (flows.c.tenant_id == tenant_id) & (flows.c.lane == lane)
    connection.execute(select(flows.c.pool).where(mine).with_for_update()).all()
    page = _page(connection, pool, cursor, limit)
    own = [row for row in page if row.tenant_id == tenant_id and row.lane == lane]
    now = virtual_time(connection, pool)
    weight = flow_weight(connection, tenant_id, lane)
    waiting = [Waiting(row.vtime, row.cost * scale(pool, row.model) / weight) for row in own]
    tags, end = drawn_together(waiting, end=cursor.end, virtual_time=now)
    set_tags(connection, [row.id for row in own], tags, _CLAIMABLE)
    if len(page) == limit:
        return Cursor(cursor.flows, page[-1].vtime, page[-1].id, end)
    finish = max(end, now)
    connection.execute(update(flows).where(mine, flows.c.finish > finish).values(finish=finish))
    return Cursor(cursor.flows[1:]) if cursor.flows[1:] else None


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


def _flows_of(connection: Connection, batch_id: str) -> tuple[tuple[str, Lane], ...]:
    """In the order in which flows are locked."""
    query = select(jobs.c.pool, jobs.c.lane).where(jobs.c.batch_id == batch_id).distinct()
    return tuple(sorted((row.pool, Lane(row.lane)) for row in connection.execute(query)))


def _page(connection: Connection, pool: str, cursor: Cursor, limit: int) -> list[Row[Any]]:
    """The claimable jobs of whatever flow that come next in this pool."""
    behind = tuple_(jobs.c.vtime, jobs.c.id) > tuple_(literal(cursor.vtime, Float), literal(cursor.id, Text))
    query = (
        select(jobs.c.id, jobs.c.tenant_id, jobs.c.lane, jobs.c.vtime, jobs.c.cost, jobs.c.model)
        .where(_CLAIMABLE, jobs.c.pool == pool, behind)
        .order_by(jobs.c.vtime, jobs.c.id)
        .limit(limit)
    )
    return list(connection.execute(query))
