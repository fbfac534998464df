"""Tenants and their keys. A key is `dk_<id>_<secret>`; only the SHA-256 of the secret is kept."""

import hashlib
import hmac
import secrets
from dataclasses import dataclass

from sqlalchemy import Connection, insert, or_, select

from common.db.tables import api_keys, tenants
from common.db.types import after_now, now

DEFAULT_TENANT = "default"
SCOPES = ("jobs:read", "jobs:write", "webhooks", "admin")


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks: a tenant, what the key may do, and the highest lane that it may use."""

    tenant_id: str
    scopes: frozenset[str]
    max_priority: str


OPERATOR = Caller(DEFAULT_TENANT, frozenset(SCOPES), "high")


def create_tenant(connection: Connection, tenant_id: str, name: str) -> None:
    """A new tenant; raises `sqlalchemy.exc.IntegrityError` when the id is taken."""
    connection.execute(insert(tenants).values(id=tenant_id, name=name))


def has_tenant(connection: Connection, tenant_id: str) -> bool:
    """Whether this tenant exists."""
    return connection.execute(select(tenants.c.id).where(tenants.c.id == tenant_id)).one_or_none() is not None


def create_key(
    connection: Connection, tenant_id: str, *, name: str, scopes: list[str], expires_seconds: float | None
) -> str:
    """A new key of the tenant, shown this once; the database keeps its digest only."""
    key_id, secret = secrets.token_hex(6), secrets.token_hex(32)
    expires = None if expires_seconds is None else after_now(expires_seconds)
    connection.execute(
        insert(api_keys).values(
            id=key_id,
            tenant_id=tenant_id,
            name=name,
            secret_sha256=_digest(secret),
            scopes=scopes,
            expires_at=expires,
        )
    )
    return f"dk_{key_id}_{secret}"


def find_caller(connection: Connection, key: str) -> Caller | None:
    """Whose key it is; None for one that is malformed, unknown, revoked or expired."""
    prefix, _, rest = key.partition("_")
    key_id, _, secret = rest.partition("_")
    if prefix != "dk" or not secret:
        return None
    valid = api_keys.c.revoked_at.is_(None) & or_(api_keys.c.expires_at.is_(None), api_keys.c.expires_at > now())
    row = connection.execute(select(api_keys).where(api_keys.c.id == key_id, valid)).one_or_none()
    if row is None or not hmac.compare_digest(row.secret_sha256, _digest(secret)):
        return None
    return Caller(row.tenant_id, frozenset(row.scopes), row.max_priority)


def _digest(secret: str) -> bytes:
    return hashlib.sha256(secret.encode()).digest()
