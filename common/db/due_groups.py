"""Whose deliveries are due: the groups of host and tenant, found without reading all that waits."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import Connection, case, func, literal, literal_column, select, tuple_
from sqlalchemy.sql.elements import ColumnElement

from common.db.tables import deliveries, webhooks
from common.db.types import now
from common.db.webhooks import is_owned
from common.domain.dispatching import Group, Name

GROUPS_PAGE: Final = 500
FEW: Final = 2000

PENDING: Final = deliveries.c.state == literal_column("'pending'")  # said as the index says it
DUE: Final = PENDING & (deliveries.c.next_at <= now())


@dataclass(frozen=True, slots=True)
class Waiting:
    """Groups with something due, and where the next look goes on; None when this one came to the end."""

    groups: list[Group]
    following: Name | None


def find_few_groups(connection: Connection, limit: int = FEW) -> list[Group] | None:
    """All groups with something due, or None when `limit` deliveries or more are: then walk, see `find_groups`.

    Costs by what is due, however much waits for its time. A group is failing when all that is due of it is.
    """
    due = (
        select(deliveries.c.host, deliveries.c.tenant_id, deliveries.c.webhook_id, deliveries.c.next_at)
        .where(DUE)
        .order_by(deliveries.c.next_at)
        .limit(limit)
        .subquery()
    )
    query = (
        select(
            due.c.host,
            due.c.tenant_id,
            func.min(due.c.next_at).label("due_since"),
            func.min(case((counts_as_failing(), 1), else_=0)).label("is_failing"),
            func.count().label("deliveries"),
        )
        .select_from(due)
        .join(webhooks, webhooks.c.id == due.c.webhook_id)
        .group_by(due.c.host, due.c.tenant_id)
    )
    rows = connection.execute(query).all()
    if sum(row.deliveries for row in rows) >= limit:
        return None
    return [Group(row.host, row.tenant_id, row.due_since, bool(row.is_failing)) for row in rows]


def find_groups(connection: Connection, after: Name | None, limit: int = GROUPS_PAGE) -> Waiting:
    """The groups behind `after`, in the order of their names, of which something is due.

    Walks the index from group to group, `limit` of them with or without something due: what waits in a group, and in
    the groups that are not looked at, costs nothing. A group is failing when the first that is due of it is.
    """
    walk = _walk(after, limit)
    query = (
        select(
            walk.c.host,
            walk.c.tenant_id,
            deliveries.c.next_at,
            (deliveries.c.next_at <= now()).label("is_due"),
            counts_as_failing().label("is_failing"),
            walk.c.place,
        )
        .select_from(walk)
        .join(deliveries, deliveries.c.id == walk.c.id)
        .join(webhooks, webhooks.c.id == deliveries.c.webhook_id)
    )
    rows = sorted(connection.execute(query), key=lambda row: int(row.place))
    groups = [Group(row.host, row.tenant_id, row.next_at, bool(row.is_failing)) for row in rows if row.is_due]
    return Waiting(groups, (rows[-1].host, rows[-1].tenant_id) if len(rows) == limit else None)


def counts_as_failing() -> ColumnElement[bool]:
    """Whether an endpoint (of `webhooks` in the query around) is treated as one whose calls fail.

    Every job and batch may bring an endpoint of its own: those of one tenant at one host fail together, else each would
    be new. A disabled one does not, what is due for it only ends.
    """
    other = webhooks.alias("other")
    there = (other.c.tenant_id == webhooks.c.tenant_id) & (other.c.host == webhooks.c.host)
    shared = select(other.c.id).where(there, is_failing_own_webhook(other)).exists()
    fails = webhooks.c.failing_since.is_not(None) | (is_owned() & shared)
    return webhooks.c.disabled_at.is_(None) & fails


def is_failing_own_webhook(table: Any) -> Any:
    """Whether a row of `webhooks` is the enabled endpoint of a job or batch whose last call failed; as the index says
    it.
    """
    return table.c.failing_since.is_not(None) & table.c.disabled_at.is_(None) & is_owned(table)


def _walk(after: Name | None, limit: int) -> Any:
    """The first delivery of each group, `limit` groups: a loose index scan."""
    order = (deliveries.c.host, deliveries.c.tenant_id, deliveries.c.next_at)
    behind = literal(True) if after is None else tuple_(deliveries.c.host, deliveries.c.tenant_id) > tuple_(*after)
    first = (
        select(deliveries.c.id, deliveries.c.host, deliveries.c.tenant_id, literal(1).label("place"))
        .where(PENDING, behind)
        .order_by(*order)
        .limit(1)
        .subquery()
    )
    walk = select(first).cte("walk", recursive=True)
    following = deliveries.alias("following")
    # SQLite would read a whole host to get behind one of its tenants if this were said as one comparison of pairs.
    next_id = func.coalesce(
        _first(walk, lambda one: (one.c.host == walk.c.host) & (one.c.tenant_id > walk.c.tenant_id)),
        _first(walk, lambda one: one.c.host > walk.c.host),
    )
    step = (
        select(following.c.id, following.c.host, following.c.tenant_id, walk.c.place + 1)
        .select_from(walk)
        .join(following, following.c.id == next_id)
        .where(walk.c.place < limit)
    )
    return walk.union_all(step)


def _first(walk: Any, is_behind: Callable[[Any], Any]) -> Any:
    one = deliveries.alias()
    return (
        select(one.c.id)
        .where(one.c.state == literal_column("'pending'"), is_behind(one))
        .order_by(one.c.host, one.c.tenant_id, one.c.next_at)
        .limit(1)
        .correlate(walk)
        .scalar_subquery()
    )
