"""What couriers do with deliveries: find who waits, take under a lease, keep what is sent, write what came of it.

Every write of an attempt carries courier and attempt, as a fence. Who locks several rows locks the job first, then the
endpoint, then deliveries.
"""

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

from sqlalchemy import Connection, Row, func, literal, literal_column, select, text, tuple_, update
from sqlalchemy.sql.elements import ColumnElement

from common.clock import to_rfc3339
from common.db.tables import deliveries, webhooks
from common.db.types import after_now, now
from common.domain.dispatching import Calls, Group, Name

MAX_LOG: Final = 50
GROUPS_PAGE: Final = 500
_TAKING: Final = 0x6461726B  # an advisory lock of PostgreSQL: couriers take one after the other
_LOST: Final = "the courier was lost during this attempt; whether it arrived is not known"

_PENDING = deliveries.c.state == literal_column("'pending'")  # said as the index says it
_DUE = _PENDING & (deliveries.c.next_at <= now())


@dataclass(frozen=True, slots=True)
class Taken:
    """A delivery that this courier holds. `attempt` counts this take, `tries` those of the present schedule.

    `secrets` are encrypted, the one in use first; `taken_at` is the database's time of the take.
    """

    id: str
    tenant_id: str
    host: str
    webhook_id: str
    subject_id: str | None
    version: int | None
    event_id: str
    kind: str
    url: str
    body: str | None = field(repr=False)
    created_at: datetime
    attempt: int
    tries: int
    worker_id: str
    secrets: tuple[bytes, ...] = field(repr=False)
    taken_at: datetime

    @property
    def group(self) -> Name:
        """Host and tenant, as its calls are counted."""
        return self.host, self.tenant_id


@dataclass(frozen=True, slots=True)
class Waiting:
    """Groups with something due, and where the next look goes on; None when this one came to the end."""

    groups: list[Group]
    following: Name | None


def find_groups(connection: Connection, after: Name | None, limit: int = GROUPS_PAGE) -> Waiting:
    """The groups behind `after`, in the order of their names, of which something is due.

    Walks the index from group to group, `limit` of them with or without something due: what waits in a group, and in
    the groups that are not looked at, costs nothing.
    """
    walk = _walk(after, limit)
    query = (
        select(
            walk.c.host,
            walk.c.tenant_id,
            deliveries.c.next_at,
            (deliveries.c.next_at <= now()).label("is_due"),
            webhooks.c.failing_since,
            walk.c.place,
        )
        .select_from(walk)
        .join(deliveries, deliveries.c.id == walk.c.id)
        .join(webhooks, webhooks.c.id == deliveries.c.webhook_id)
    )
    rows = sorted(connection.execute(query), key=lambda row: int(row.place))
    groups = [Group(row.host, row.tenant_id, row.next_at, row.failing_since is not None) for row in rows if row.is_due]
    return Waiting(groups, (rows[-1].host, rows[-1].tenant_id) if len(rows) == limit else None)


def take(
    connection: Connection, worker_id: str, lease_seconds: float, choose: Callable[[Calls], Mapping[Name, int]]
) -> list[Taken]:
    """Deliveries now held by this courier: as many of each group as `choose` says, the longest due first.

    `choose` is told what is in flight; until this transaction ends no other courier takes anything, so what it counts
    is true. What is due for a disabled endpoint ends as `disabled`.
    """
    if connection.dialect.name == "postgresql":
        connection.execute(text(f"SELECT pg_advisory_xact_lock({_TAKING})"))
    chosen = choose(_calls(connection, worker_id))
    rows = [row for name, count in chosen.items() for row in connection.execute(_head_of(name, count))]
    disabled = [row.id for row in rows if row.disabled_at is not None]
    if disabled:
        connection.execute(update(deliveries).where(deliveries.c.id.in_(disabled)).values(ended("disabled")))
    rows = [row for row in rows if row.disabled_at is None]
    if rows:
        lease = after_now(lease_seconds)
        held = {"worker_id": worker_id, "lease_until": lease, "next_at": lease, "attempt": deliveries.c.attempt + 1}
        connection.execute(update(deliveries).where(deliveries.c.id.in_([row.id for row in rows])).values(held))
    for row in rows:
        if row.worker_id is not None:
            _write_loss(connection, row)
    return [_taken(row, worker_id) for row in rows]


def holds(taken: Taken) -> ColumnElement[bool]:
    """The condition that the courier still holds this delivery for this attempt."""
    return (
        (deliveries.c.id == taken.id)
        & (deliveries.c.worker_id == taken.worker_id)
        & (deliveries.c.attempt == taken.attempt)
    )


def ended(state: str) -> dict[str, Any]:
    """The values of a delivery that has come to its end."""
    return {"state": state, "ended_at": now(), "next_at": None, "worker_id": None, "lease_until": None}


def put_back(connection: Connection, taken: Taken, seconds: float) -> bool:
    """Give it back for a while; this attempt, in which nothing was sent, does not count. False when it is not ours."""
    values = {
        "next_at": after_now(seconds),
        "worker_id": None,
        "lease_until": None,
        "attempt": deliveries.c.attempt - 1,
    }
    return connection.execute(update(deliveries).where(holds(taken)).values(values)).rowcount == 1


def _walk(after: Name | None, limit: int) -> Any:
    """The first delivery of each group, `limit` groups: a loose index scan."""
    order = (deliveries.c.host, deliveries.c.tenant_id, deliveries.c.next_at)
    behind = literal(True) if after is None else tuple_(deliveries.c.host, deliveries.c.tenant_id) > tuple_(*after)
    first = (
        select(deliveries.c.id, deliveries.c.host, deliveries.c.tenant_id, literal(1).label("place"))
        .where(_PENDING, behind)
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


def _calls(connection: Connection, worker_id: str) -> Calls:
    """What is in flight now, of all couriers and of this one."""
    is_mine = deliveries.c.worker_id == worker_id
    is_failing = webhooks.c.failing_since.is_not(None)
    query = (
        select(
            deliveries.c.host,
            deliveries.c.tenant_id,
            is_mine.label("is_mine"),
            is_failing.label("is_failing"),
            func.count().label("calls"),
        )
        .join(webhooks, webhooks.c.id == deliveries.c.webhook_id)
        .where(deliveries.c.lease_until > now())
        .group_by(deliveries.c.host, deliveries.c.tenant_id, is_mine, is_failing)
    )
    by_group: Counter[Name] = Counter()
    own_by_tenant: Counter[str] = Counter()
    own_failing = 0
    for row in connection.execute(query):
        by_group[row.host, row.tenant_id] += row.calls
        if row.is_mine:
            own_by_tenant[row.tenant_id] += row.calls
            own_failing += row.calls if row.is_failing else 0
    return Calls(by_group, own_by_tenant, own_failing)


def _head_of(name: Name, count: int) -> Any:
    host, tenant_id = name
    return (
        select(
            deliveries,
            webhooks.c.url,
            webhooks.c.secret,
            webhooks.c.old_secret,
            (webhooks.c.old_secret_until > now()).label("is_rotating"),
            webhooks.c.disabled_at,
            now().label("database_now"),
        )
        .join(webhooks, webhooks.c.id == deliveries.c.webhook_id)
        .where(_DUE, deliveries.c.host == host, deliveries.c.tenant_id == tenant_id)
        .order_by(deliveries.c.next_at)
        .limit(count)
        .with_for_update(skip_locked=True, of=deliveries)
    )


def _write_loss(connection: Connection, row: Row[Any]) -> None:
    """The courier before us never came back: its attempt stands in the log all the same."""
    entry = {"at": to_rfc3339(row.database_now), "status": None, "ms": 0, "response": None, "error": _LOST}
    log = [*row.log, entry][-MAX_LOG:]
    connection.execute(update(deliveries).where(deliveries.c.id == row.id).values(log=log))


def _taken(row: Row[Any], worker_id: str) -> Taken:
    old = (row.old_secret,) if row.is_rotating and row.old_secret is not None else ()
    members = ("id", "tenant_id", "host", "webhook_id", "subject_id", "version", "event_id", "kind", "url", "body")
    return Taken(
        **{name: row._mapping[name] for name in members},
        created_at=row.created_at,
        attempt=row.attempt + 1,
        tries=row.attempt + 1 - row.schedule_from,
        worker_id=worker_id,
        secrets=(row.secret, *old),
        taken_at=row.database_now,
    )
