"""What a tenant does with deliveries: list, look, send again. Every call takes the tenant.

Couriers work them off, see `common.db.dispatching`; they are written by `common.db.announcing`.
"""

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Row, insert, or_, select, update
from sqlalchemy.sql.elements import ColumnElement

from common.db.tables import deliveries, jobs, webhooks
from common.db.types import now
from common.domain.errors import Conflict
from common.domain.webhook_events import TEST_EVENT, test_event_id
from common.ids import new_id

ERASED = ""
"""The body of a delivery whose job was erased after it had ended."""

_PENDING = "pending"
_AGAIN = {"state": _PENDING, "ended_at": None}


@dataclass(frozen=True, slots=True)
class Delivery:
    """One event on its way to one endpoint; `body` is None until the first attempt and after an erasure.

    `state`: `pending`, `delivered`, `failed` (given up) or `disabled` (its endpoint was). `log` has one entry per
    attempt, the oldest first, of at most the last 50. `next_at` is None once it has ended.
    """

    id: str
    tenant_id: str
    webhook_id: str
    subject_id: str | None
    version: int | None
    event_id: str
    kind: str
    url: str
    state: str
    attempt: int
    next_at: datetime | None
    created_at: datetime
    ended_at: datetime | None
    log: list[dict[str, Any]]
    body: str | None
    worker_id: str | None


def list_deliveries(
    connection: Connection, tenant_id: str, *, limit: int, after: str | None, filters: dict[str, Any]
) -> list[Delivery]:
    """The tenant's deliveries, newest first, at most `limit`, older than the id `after`.

    `filters`: `subject_id`, `webhook_id` and `state`.
    """
    query = _deliveries().where(deliveries.c.tenant_id == tenant_id, *_matching(filters))
    if after is not None:
        query = query.where(deliveries.c.id < after)
    return [_delivery(row) for row in connection.execute(query.order_by(deliveries.c.id.desc()).limit(limit))]


def find_delivery(connection: Connection, tenant_id: str, delivery_id: str) -> Delivery | None:
    """The delivery as it is now, or None when this tenant has no such one."""
    row = connection.execute(_deliveries().where(_is(tenant_id, delivery_id))).one_or_none()
    return None if row is None else _delivery(row)


def redeliver(connection: Connection, tenant_id: str, delivery_id: str) -> Delivery | None:
    """Send it again, now, with the same `webhook-id`; the schedule begins anew, the log goes on.

    One that is pending is made due now, one that is being sent is left to its attempt. None when this tenant has no
    such delivery. Raises `Conflict` when its endpoint is disabled or its job was erased. Ring the courier after the
    commit. The endpoint's row of failures begins anew: one more failure is no reason to disable it.
    """
    mine = _is(tenant_id, delivery_id)
    columns = select(webhooks.c.id, webhooks.c.disabled_at, deliveries.c.subject_id)
    query = columns.join(deliveries, deliveries.c.webhook_id == webhooks.c.id)
    endpoint = connection.execute(query.where(mine)).one_or_none()
    if endpoint is None:
        return None
    if endpoint.disabled_at is not None:
        raise Conflict("the webhook is disabled; enable it before sending to it again")
    if endpoint.subject_id is not None:  # no erasure comes between the look at the job and the end of this
        connection.execute(select(jobs.c.id).where(jobs.c.id == endpoint.subject_id).with_for_update(read=True))
    _forgive(connection, [endpoint.id])
    connection.execute(update(deliveries).where(mine, _is_due_later()).values(next_at=now()))
    connection.execute(update(deliveries).where(mine, _may_go_again()).values(_from_the_start()))
    found = find_delivery(connection, tenant_id, delivery_id)
    if found is not None and found.state != _PENDING:
        raise Conflict("the job of this delivery was erased, and what it said with it")
    return found


def redeliver_many(
    connection: Connection,
    tenant_id: str,
    *,
    filters: dict[str, Any],
    created_after: datetime | None,
    created_before: datetime | None,
    limit: int = 1000,
    ended_before: datetime | None = None,
) -> int:
    """The same for up to `limit` deliveries, the oldest first; those that cannot be sent again are left out.

    `filters` as for `list_deliveries`, by default those that failed; moments are exclusive. Returns how many: call it
    again while that is `limit`, with the moment of the first call as `ended_before`, so that what is sent again and
    fails again meanwhile is not met twice. Their endpoints' rows of failures begin anew.
    """
    wanted = [deliveries.c.tenant_id == tenant_id, *_matching({"state": "failed"} | filters)]
    if created_after is not None:
        wanted.append(deliveries.c.created_at > created_after)
    if created_before is not None:
        wanted.append(deliveries.c.created_at < created_before)
    if ended_before is not None:
        wanted.append(or_(deliveries.c.ended_at.is_(None), deliveries.c.ended_at < ended_before))
    enabled = select(webhooks.c.id).where(webhooks.c.tenant_id == tenant_id, webhooks.c.disabled_at.is_(None))
    wanted += [deliveries.c.webhook_id.in_(enabled), or_(_is_due_later(), _may_go_again())]
    page = select(deliveries.c.id, deliveries.c.webhook_id).where(*wanted).order_by(deliveries.c.id).limit(limit)
    found = connection.execute(page).all()
    _forgive(connection, {row.webhook_id for row in found})
    mine = deliveries.c.id.in_([row.id for row in found])
    # An erasure waits for these rows from here on, or has emptied them: what follows looks at them once more.
    connection.execute(select(deliveries.c.id).where(mine).order_by(deliveries.c.id).with_for_update())
    again = connection.execute(update(deliveries).where(mine, _may_go_again()).values(_from_the_start())).rowcount
    return again + connection.execute(update(deliveries).where(mine, _is_due_later()).values(next_at=now())).rowcount


def announce_test(connection: Connection, tenant_id: str, webhook_id: str) -> Delivery | None:
    """A `webhook.test` to this endpoint, due now; None when this tenant has no such one.

    Raises `Conflict` when it is disabled. Ring the courier after the commit. Its row of failures begins anew.
    """
    mine = (webhooks.c.id == webhook_id) & (webhooks.c.tenant_id == tenant_id)
    query = select(webhooks.c.host, webhooks.c.disabled_at).where(mine).with_for_update(read=True, key_share=True)
    endpoint = connection.execute(query).one_or_none()
    if endpoint is None:
        return None
    if endpoint.disabled_at is not None:
        raise Conflict("the webhook is disabled; enable it before sending to it")
    _forgive(connection, [webhook_id])
    delivery_id = new_id("whd")
    row = {
        "id": delivery_id,
        "tenant_id": tenant_id,
        "webhook_id": webhook_id,
        "event_id": test_event_id(),
        "kind": TEST_EVENT,
        "host": endpoint.host,
        "state": _PENDING,
        "log": [],
        "next_at": now(),
    }
    connection.execute(insert(deliveries).values(row))
    return find_delivery(connection, tenant_id, delivery_id)


def _forgive(connection: Connection, webhook_ids: Collection[str]) -> None:
    """These endpoints count as well until they fail again."""
    failing = webhooks.c.id.in_(webhook_ids) & webhooks.c.failing_since.is_not(None)
    query = select(webhooks.c.id).where(failing).order_by(webhooks.c.id).with_for_update(key_share=True)
    ids = list(connection.execute(query).scalars())
    if ids:
        connection.execute(update(webhooks).where(webhooks.c.id.in_(ids)).values(failing_since=None))


def _is(tenant_id: str, delivery_id: str) -> ColumnElement[bool]:
    return (deliveries.c.id == delivery_id) & (deliveries.c.tenant_id == tenant_id)


def _is_due_later() -> ColumnElement[bool]:
    """Pending, held by nobody who lives, and waiting for its time."""
    is_free = or_(deliveries.c.lease_until.is_(None), deliveries.c.lease_until < now())
    return (deliveries.c.state == _PENDING) & is_free & (deliveries.c.next_at > now())


def _may_go_again() -> ColumnElement[bool]:
    """Ended, and there is still something to say."""
    subject = select(jobs.c.id).where(jobs.c.id == deliveries.c.subject_id, jobs.c.erased_at.is_not(None)).exists()
    return (deliveries.c.state != _PENDING) & deliveries.c.body.is_distinct_from(ERASED) & ~subject


def _from_the_start() -> dict[str, Any]:
    return _AGAIN | {"next_at": now(), "schedule_from": deliveries.c.attempt}


def _matching(filters: dict[str, Any]) -> list[ColumnElement[bool]]:
    return [deliveries.c[name] == value for name, value in filters.items()]


def _deliveries() -> Any:
    return select(deliveries, webhooks.c.url).join(webhooks, webhooks.c.id == deliveries.c.webhook_id)


def _delivery(row: Row[Any]) -> Delivery:
    members = {name: row._mapping[name] for name in Delivery.__dataclass_fields__}
    return Delivery(**members | {"body": row.body or None})
