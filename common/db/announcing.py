"""Writing deliveries: one row for every endpoint that wants an event, in the transaction that brings it about."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, and_, func, insert, or_, select

from common.db.tables import deliveries, webhooks
from common.db.types import now
from common.db.webhooks import is_standing
from common.domain.webhook_events import DEFAULT_EVENTS, STARTED_EVENT, event_id
from common.ids import is_id, new_id

_TOLD = frozenset({STARTED_EVENT, *DEFAULT_EVENTS})


@dataclass(frozen=True, slots=True)
class Event:
    """A job or batch (`subject_id`) has come to a version that may be told."""

    tenant_id: str
    subject_id: str
    version: int
    kind: str


def announce_events(connection: Connection, events: Iterable[Event]) -> int:
    """Deliveries of these events, due now, to every enabled endpoint that wants them. Returns how many.

    Kinds that no endpoint can subscribe to cost nothing, others one query for all of them. To be called in the
    transaction of the transition; the courier may be rung after its commit.
    """
    told = [event for event in events if event.kind in _TOLD]
    if not told:
        return 0
    endpoints = _endpoints(connection, told)
    rows = [
        delivery_row(event, endpoint.id, endpoint.host)
        for event in told
        for endpoint in endpoints
        if _wants(endpoint, event)
    ]
    if rows:
        connection.execute(insert(deliveries).values(next_at=now()), rows)
    return len(rows)


def delivery_row(event: Event, webhook_id: str, host: str) -> dict[str, Any]:
    """The columns of a new delivery but for `next_at`."""
    return {
        "id": new_id("whd"),
        "tenant_id": event.tenant_id,
        "webhook_id": webhook_id,
        "subject_id": event.subject_id,
        "version": event.version,
        "event_id": event_id(event.subject_id, event.version),
        "kind": event.kind,
        "host": host,
        "state": "pending",
        "log": [],
    }


def _endpoints(connection: Connection, events: Sequence[Event]) -> list[Any]:
    """Enabled endpoints of these tenants, standing or of these jobs and batches.

    Locked against their deletion, which waits for this transaction: no foreign key may undo a transition.
    """
    standing = and_(is_standing(), webhooks.c.tenant_id.in_({event.tenant_id for event in events}))
    batches = {event.subject_id for event in events if is_id(event.subject_id, "bat")}
    jobs = {event.subject_id for event in events} - batches
    own = or_(webhooks.c.job_id.in_(jobs), webhooks.c.batch_id.in_(batches))
    owner = func.coalesce(webhooks.c.job_id, webhooks.c.batch_id).label("owner_id")
    query = (
        select(webhooks.c.id, webhooks.c.tenant_id, owner, webhooks.c.host, webhooks.c.events)
        .where(or_(standing, own), webhooks.c.disabled_at.is_(None))
        .order_by(webhooks.c.id)
        .with_for_update(read=True, key_share=True)
    )
    return list(connection.execute(query))


def _wants(endpoint: Any, event: Event) -> bool:
    is_of_it = endpoint.tenant_id == event.tenant_id and endpoint.owner_id in (None, event.subject_id)
    return is_of_it and event.kind in endpoint.events
