"""What couriers do with deliveries: take under a lease, give back. Who waits is found by `common.db.due_groups`, what
came of it written by `common.db.outcomes`.

Every write of an attempt carries courier and attempt, as a fence. Who locks several rows locks the job first, then the
endpoint, then deliveries.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

from sqlalchemy import Connection, Row, func, select, text, update
from sqlalchemy.sql.elements import ColumnElement

from common.clock import to_rfc3339
from common.db.due_groups import DUE, FEW, counts_as_failing
from common.db.tables import deliveries, webhooks
from common.db.types import after_now, now
from common.domain.dispatching import Calls, Candidate, Name, choose_deliveries

MAX_LOG: Final = 50
WINDOW: Final = 200
_WINDOWS: Final = 5
_TAKING: Final = 0x6461726B  # an advisory lock of PostgreSQL: couriers take one after the other
_LOST: Final = "the courier was lost during this attempt; whether it arrived is not known"


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


def take(
    connection: Connection, worker_id: str, lease_seconds: float, choose: Callable[[Calls], Mapping[Name, int]]
) -> list[Taken]:
    """Deliveries now held by this courier: as many of each group as `choose` says, those of failing endpoints last and
    one at a time, the longest due first.

    `choose` is told what is in flight; until this transaction ends no other courier takes anything, so what it counts
    is true. What is due for a disabled endpoint ends as `disabled`, some pages of it at once.
    """
    if connection.dialect.name == "postgresql":
        connection.execute(text(f"SELECT pg_advisory_xact_lock({_TAKING})"))
    calls = _calls(connection, worker_id)
    ids = [one for name, count in choose(calls).items() for one in _choose(connection, name, count, calls)]
    rows = connection.execute(_to_take(ids)).all() if ids else []
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


def _calls(connection: Connection, worker_id: str) -> Calls:
    """What is in flight now, of all couriers and of this one."""
    is_mine = deliveries.c.worker_id == worker_id
    is_failing = counts_as_failing()
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
    failing_by_group: Counter[Name] = Counter()
    own_failing = 0
    for row in connection.execute(query):
        by_group[row.host, row.tenant_id] += row.calls
        if row.is_failing:
            failing_by_group[row.host, row.tenant_id] += row.calls
        if row.is_mine:
            own_by_tenant[row.tenant_id] += row.calls
            own_failing += row.calls if row.is_failing else 0
    return Calls(by_group, own_by_tenant, own_failing, failing_by_group)


def _choose(connection: Connection, name: Name, count: int, calls: Calls) -> list[str]:
    """The deliveries of a group to take, at most `count`. Ends what is due for disabled endpoints on the way."""
    window: Sequence[Row[Any]] = []
    for _ in range(_WINDOWS):
        window = connection.execute(_window(name, WINDOW)).all()
        disabled = [row.id for row in window if row.is_disabled]
        window = [row for row in window if not row.is_disabled]
        if not disabled:
            break
        _end_disabled(connection, disabled)
    if len(window) == WINDOW and all(row.is_failing for row in window):  # a live one may be far behind a dead one
        window = [row for row in connection.execute(_window(name, FEW)) if not row.is_disabled]
    candidates = [Candidate(row.id, bool(row.is_failing)) for row in window]
    held, held_failing = calls.by_group.get(name, 0), calls.failing_by_group.get(name, 0)
    return choose_deliveries(candidates, count, held, held_failing)


def _window(name: Name, limit: int) -> Any:
    """What is due for longest of a group: enough to find one whose endpoint does not fail among those that do."""
    host, tenant_id = name
    is_disabled = webhooks.c.disabled_at.is_not(None).label("is_disabled")
    return (
        select(deliveries.c.id, counts_as_failing().label("is_failing"), is_disabled)
        .join(webhooks, webhooks.c.id == deliveries.c.webhook_id)
        .where(DUE, deliveries.c.host == host, deliveries.c.tenant_id == tenant_id)
        .order_by(deliveries.c.next_at)
        .limit(limit)
    )


def _end_disabled(connection: Connection, ids: list[str]) -> None:
    due = select(deliveries.c.id).where(DUE, deliveries.c.id.in_(ids)).with_for_update(skip_locked=True)
    free = list(connection.execute(due).scalars())
    connection.execute(update(deliveries).where(deliveries.c.id.in_(free)).values(ended("disabled")))


def _to_take(ids: list[str]) -> Any:
    return (
        select(
            deliveries,
            webhooks.c.url,
            webhooks.c.secret,
            webhooks.c.old_secret,
            (webhooks.c.old_secret_until > now()).label("is_rotating"),
            now().label("database_now"),
        )
        .join(webhooks, webhooks.c.id == deliveries.c.webhook_id)
        .where(DUE, deliveries.c.id.in_(ids))
        .order_by(deliveries.c.next_at)
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
