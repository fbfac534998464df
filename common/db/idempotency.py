"""Idempotency keys: a row in the transaction of what it protects, unique per tenant."""

from dataclasses import dataclass
from typing import Any

from psycopg.errors import LockNotAvailable
from sqlalchemy import Connection, select, text
from sqlalchemy.exc import OperationalError

from common.db.tables import idempotency_keys
from common.db.types import after_now, now
from common.db.upsert import upsert
from common.domain.errors import Conflict

LIFE_SECONDS = 24 * 3600


@dataclass(frozen=True, slots=True)
class Remembered:
    """What the first request with a key made, and the fingerprint of that request."""

    fingerprint: str
    resource_id: str


def remember(connection: Connection, tenant_id: str, key: str, fingerprint: str, resource_id: str) -> Remembered | None:
    """Take the key for `resource_id`. Returns what holds it already, or None when it is ours now.

    A second request waits here for the first one's commit, two seconds at most; then `Refusal`
    (`idempotency_in_flight`).
    """
    row = {"tenant_id": tenant_id, "key": key, "fingerprint": fingerprint, "resource_id": resource_id}
    statement = (
        upsert(connection, idempotency_keys)
        .values(row | {"expires_at": after_now(LIFE_SECONDS)})
        .on_conflict_do_update(
            index_elements=[idempotency_keys.c.tenant_id, idempotency_keys.c.key],
            set_={"fingerprint": fingerprint, "resource_id": resource_id, "expires_at": after_now(LIFE_SECONDS)},
            where=idempotency_keys.c.expires_at <= now(),
        )
        .returning(idempotency_keys.c.key)
    )
    if _wait_for(connection, statement):
        return None
    return recall(connection, tenant_id, key)


def _wait_for(connection: Connection, statement: Any) -> bool:
    """Whether the statement wrote a row."""
    if connection.dialect.name == "sqlite":
        return connection.execute(statement).one_or_none() is not None
    connection.execute(text("SET LOCAL lock_timeout = '2s'"))
    try:
        written = connection.execute(statement).one_or_none() is not None
    except OperationalError as error:
        if isinstance(error.orig, LockNotAvailable):
            detail = "the first request with this Idempotency-Key is still being written; send it again"
            raise Conflict(detail, code="idempotency_in_flight") from None
        raise
    connection.execute(text("SET LOCAL lock_timeout = 0"))
    return written


def recall(connection: Connection, tenant_id: str, key: str) -> Remembered | None:
    """What holds this key, if it still lives."""
    mine = (idempotency_keys.c.tenant_id == tenant_id) & (idempotency_keys.c.key == key)
    query = select(idempotency_keys.c.fingerprint, idempotency_keys.c.resource_id)
    row = connection.execute(query.where(mine, idempotency_keys.c.expires_at > now())).one_or_none()
    return None if row is None else Remembered(row.fingerprint, row.resource_id)
