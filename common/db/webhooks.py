"""Where a tenant's events are sent: standing endpoints, and those of single jobs and batches.

Every call takes the tenant.
"""

from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

from sqlalchemy import Column, Connection, FromClause, Row, and_, case, delete, func, insert, or_, select, update
from sqlalchemy.sql.elements import ColumnElement

from common.db.tables import tenants, webhooks
from common.db.types import after_now, now
from common.domain.errors import Conflict
from common.ids import is_id, new_id
from common.outbound.urls import host_of

MAX_STANDING: Final = 50

_SHOWN: Final = (
    "id",
    "job_id",
    "batch_id",
    "url",
    "description",
    "events",
    "disabled_at",
    "disabled_reason",
    "failing_since",
    "created_at",
)


@dataclass(frozen=True, slots=True)
class Sealed:
    """The signing secrets of an endpoint, encrypted; the old one signs beside the new one until `old_until`."""

    secret: bytes = field(repr=False)
    old: bytes | None = field(default=None, repr=False)
    old_until: datetime | None = None


@dataclass(frozen=True, slots=True)
class NewWebhook:
    """An endpoint before its row exists.

    Without `sealed` it borrows the secrets of the tenant's newest enabled standing endpoint; only a job's or a batch's
    may. With `carried_from`, a job or batch, it has those that the endpoint of that one has when it is written, as long
    as there is one.
    """

    url: str
    events: tuple[str, ...]
    sealed: Sealed | None
    description: str | None = None
    carried_from: str | None = None


@dataclass(frozen=True, slots=True)
class Webhook:
    """An endpoint as it is now, without its secrets. `job_id` and `batch_id` are None for a standing one.

    `old_secret_until` is None unless a replaced secret still signs.
    """

    id: str
    job_id: str | None
    batch_id: str | None
    url: str
    description: str | None
    events: tuple[str, ...]
    disabled_at: datetime | None
    disabled_reason: str | None
    failing_since: datetime | None
    old_secret_until: datetime | None
    created_at: datetime


def insert_webhook(connection: Connection, tenant_id: str, new: NewWebhook) -> Webhook:
    """A standing endpoint. Raises `Conflict` for one more than `MAX_STANDING`."""
    # Two at once would both count 49. This lock waits for others of its kind only, not for foreign keys.
    connection.execute(select(tenants.c.id).where(tenants.c.id == tenant_id).with_for_update(key_share=True))
    standing = select(func.count()).select_from(webhooks).where(_mine(tenant_id), is_standing())
    if connection.execute(standing).scalar_one() >= MAX_STANDING:
        raise Conflict(f"there are {MAX_STANDING} webhooks already, which is the most; delete one first")
    if new.sealed is None:
        raise ValueError("a standing endpoint has a secret of its own")
    webhook_id = new_id("whe")
    connection.execute(insert(webhooks).values(_row(tenant_id, webhook_id, new, new.sealed)))
    return _webhook(connection.execute(_look(tenant_id).where(webhooks.c.id == webhook_id)).one())


def insert_job_webhook(connection: Connection, tenant_id: str, job_id: str, new: NewWebhook) -> bool:
    """The endpoint of a job, in the transaction that inserts the job.

    False when it has no secret and there is none to borrow (any more).
    """
    return _insert_owned(connection, tenant_id, job_id, new)


def insert_batch_webhook(connection: Connection, tenant_id: str, batch_id: str, new: NewWebhook) -> bool:
    """The endpoint of a batch, in the transaction that inserts the batch; otherwise as that of a job."""
    return _insert_owned(connection, tenant_id, batch_id, new)


def _insert_owned(connection: Connection, tenant_id: str, owner_id: str, new: NewWebhook) -> bool:
    carried = None if new.carried_from is None else _hold_carried(connection, tenant_id, new.carried_from)
    sealed = carried or new.sealed or find_lender(connection, tenant_id, hold=True)
    if sealed is None:
        return False
    row = _row(tenant_id, new_id("whe"), new, sealed) | {_owner(owner_id).name: owner_id}
    connection.execute(insert(webhooks).values(row))
    return True


def find_lender(connection: Connection, tenant_id: str, *, hold: bool = False) -> Sealed | None:
    """The secrets of the tenant's newest enabled standing endpoint, or None.

    With `hold` no rotation comes between this look and the end of the transaction.
    """
    standing = _mine(tenant_id) & is_standing() & webhooks.c.disabled_at.is_(None)
    query = _secrets().where(standing).order_by(webhooks.c.id.desc()).limit(1)
    row = connection.execute(query.with_for_update(read=True) if hold else query).one_or_none()
    return None if row is None else Sealed(row.secret, row.old_secret, row.old_secret_until)


def find_job_webhook(connection: Connection, tenant_id: str, job_id: str) -> NewWebhook | None:
    """What another job needs to have the endpoint of this one, or None when this one has none (any more)."""
    return _find_owned(connection, tenant_id, job_id)


def find_batch_webhook(connection: Connection, tenant_id: str, batch_id: str) -> NewWebhook | None:
    """What another batch needs to have the endpoint of this one, or None when this one has none (any more)."""
    return _find_owned(connection, tenant_id, batch_id)


def _find_owned(connection: Connection, tenant_id: str, owner_id: str) -> NewWebhook | None:
    query = _secrets().add_columns(webhooks.c.url, webhooks.c.events)
    row = connection.execute(query.where(_mine(tenant_id), _owner(owner_id) == owner_id)).one_or_none()
    if row is None:
        return None
    sealed = Sealed(row.secret, row.old_secret, row.old_secret_until)
    return NewWebhook(row.url, tuple(row.events), sealed, carried_from=owner_id)


def _hold_carried(connection: Connection, tenant_id: str, owner_id: str) -> Sealed | None:
    """The secrets of the endpoint of a job or batch as they are now; no rotation comes between this look and the end
    of the transaction, neither its own nor that of the one who lent them.
    """
    standing = select(webhooks.c.id).where(_mine(tenant_id), is_standing()).order_by(webhooks.c.id)
    connection.execute(standing.with_for_update(read=True))
    query = _secrets().where(_mine(tenant_id), _owner(owner_id) == owner_id).with_for_update(read=True)
    row = connection.execute(query).one_or_none()
    return None if row is None else Sealed(row.secret, row.old_secret, row.old_secret_until)


def find_webhook(connection: Connection, tenant_id: str, webhook_id: str) -> Webhook | None:
    """The tenant's endpoint, standing or of a job or batch."""
    row = connection.execute(_look(tenant_id).where(webhooks.c.id == webhook_id)).one_or_none()
    return None if row is None else _webhook(row)


def list_webhooks(connection: Connection, tenant_id: str, *, limit: int, after: str | None) -> list[Webhook]:
    """The tenant's standing endpoints, newest first, at most `limit`, older than the id `after`."""
    query = _look(tenant_id).where(is_standing()).order_by(webhooks.c.id.desc()).limit(limit)
    if after is not None:
        query = query.where(webhooks.c.id < after)
    return [_webhook(row) for row in connection.execute(query)]


def delete_webhook(connection: Connection, tenant_id: str, webhook_id: str) -> bool:
    """Forget the tenant's standing endpoint and its deliveries, sent or not. False when there is no such."""
    mine = _mine(tenant_id) & (webhooks.c.id == webhook_id) & is_standing()
    return connection.execute(delete(webhooks).where(mine)).rowcount == 1


def rotate_secret(
    connection: Connection, tenant_id: str, webhook_id: str, secret: bytes, *, keep_seconds: float
) -> Webhook | None:
    """Sign with this secret from now on, and for `keep_seconds` with the one before too; one older still is dropped.

    Jobs and batches that borrowed the endpoint's secret follow. None when there is no such endpoint.
    """
    mine = _mine(tenant_id) & (webhooks.c.id == webhook_id)
    query = select(webhooks.c.secret, is_standing().label("is_standing")).where(mine).with_for_update(key_share=True)
    row = connection.execute(query).one_or_none()
    if row is None:
        return None
    if row.is_standing:
        # Encrypting the same secret twice gives two texts, so equal ones are copies: these borrowed it.
        mine |= _mine(tenant_id) & is_owned() & (webhooks.c.secret == row.secret)
    values = {"secret": secret, "old_secret": row.secret, "old_secret_until": after_now(keep_seconds)}
    connection.execute(update(webhooks).where(mine).values(values))
    return find_webhook(connection, tenant_id, webhook_id)


def enable_webhook(connection: Connection, tenant_id: str, webhook_id: str) -> Webhook | None:
    """Send to it again from now on, whatever it did before. None when there is no such endpoint."""
    values = dict.fromkeys(("disabled_at", "disabled_reason", "failing_since"))
    connection.execute(update(webhooks).where(_mine(tenant_id), webhooks.c.id == webhook_id).values(values))
    return find_webhook(connection, tenant_id, webhook_id)


def is_standing() -> ColumnElement[bool]:
    """Whether a row is a standing endpoint; as the index says it."""
    return and_(webhooks.c.job_id.is_(None), webhooks.c.batch_id.is_(None))


def is_owned(table: FromClause = webhooks) -> ColumnElement[bool]:
    """Whether a row of `webhooks` or an alias of it is the endpoint of a job or batch; as the index says it."""
    return or_(table.c.job_id.is_not(None), table.c.batch_id.is_not(None))


def _owner(owner_id: str) -> Column[str]:
    """The column that names the owner of an endpoint: a batch or a job."""
    return webhooks.c.batch_id if is_id(owner_id, "bat") else webhooks.c.job_id


def _mine(tenant_id: str) -> Any:
    return webhooks.c.tenant_id == tenant_id


def _row(tenant_id: str, webhook_id: str, new: NewWebhook, sealed: Sealed) -> dict[str, Any]:
    return {
        "id": webhook_id,
        "tenant_id": tenant_id,
        "url": new.url,
        "host": host_of(new.url),
        "description": new.description,
        "events": list(new.events),
        "secret": sealed.secret,
        "old_secret": sealed.old,
        "old_secret_until": sealed.old_until,
    }


def _secrets() -> Any:
    return select(webhooks.c.secret, webhooks.c.old_secret, webhooks.c.old_secret_until)


def _look(tenant_id: str) -> Any:
    until = case((webhooks.c.old_secret_until > now(), webhooks.c.old_secret_until), else_=None)
    columns = [*(webhooks.c[name] for name in _SHOWN), until.label("old_secret_until")]
    return select(*columns).where(_mine(tenant_id))


def _webhook(row: Row[Any]) -> Webhook:
    return Webhook(**(dict(row._mapping) | {"events": tuple(row.events)}))
