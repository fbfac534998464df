"""Webhook endpoints and their deliveries for tests, as rows."""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Row, insert, select, update

from common.db.engine import Database
from common.db.tables import deliveries, webhooks
from common.db.types import after_now
from common.domain.webhook_events import DEFAULT_EVENTS
from common.ids import new_id
from common.outbound.urls import host_of
from common.vault import Vault

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
OLD_SECRET = "whsec_b2xkZXIgdGhhbiB0aGUgb3RoZXIgb25lIQ=="


def subscribe(
    database: Database,
    url: str = "https://hooks.example/in",
    *,
    vault: Vault | None = None,
    events: Sequence[str] = DEFAULT_EVENTS,
    secret: str = SECRET,
    **columns: Any,
) -> str:
    """A standing endpoint of the default tenant, or what `columns` say; its id. Without a vault its secret is none."""
    sealed = vault.encrypt(secret) if vault else b"sealed"
    webhook_id = new_id("whe")
    row = {"id": webhook_id, "tenant_id": "default", "url": url, "host": host_of(url), "secret": sealed}
    row |= {"events": list(events)}
    with database.write() as connection:
        connection.execute(insert(webhooks).values(row | columns))
    return webhook_id


def rows_of(database: Database, **columns: Any) -> list[Row[Any]]:
    """The deliveries with these values, the oldest first."""
    matching = [deliveries.c[name] == value for name, value in columns.items()]
    with database.read() as connection:
        return list(connection.execute(select(deliveries).where(*matching).order_by(deliveries.c.id)))


def endpoint(database: Database, webhook_id: str) -> Row[Any]:
    """The endpoint's row."""
    with database.read() as connection:
        return connection.execute(select(webhooks).where(webhooks.c.id == webhook_id)).one()


def let_time_pass(database: Database) -> None:
    """Everything that waits is due, and whoever holds a delivery is presumed dead."""
    with database.write() as connection:
        pending = deliveries.c.state == "pending"
        connection.execute(update(deliveries).where(pending).values(next_at=after_now(-1)))
        held = deliveries.c.lease_until.is_not(None)
        connection.execute(update(deliveries).where(held).values(lease_until=after_now(-1)))
