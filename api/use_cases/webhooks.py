"""Standing webhooks: made, looked at, given another secret, tried out, enabled and deleted."""

from dataclasses import dataclass, field
from typing import Final

from sqlalchemy import Connection

from api.dependencies import Services
from api.schemas.webhooks import RotateRequest, WebhookRequest
from common.db import webhooks as sql
from common.db.deliveries import Delivery, announce_test
from common.db.tenants import Caller
from common.db.webhooks import NewWebhook, Sealed, Webhook
from common.domain.errors import Conflict, Invalid, NotFound, Problem, Unavailable
from common.domain.webhook_events import DEFAULT_EVENTS
from common.ids import is_id
from common.outbound.errors import FetchFailed, NameUnknown, UrlBlocked
from common.signing import new_secret

_UNKNOWN: Final = "there is no such webhook"


@dataclass(frozen=True, slots=True)
class Page:
    """Some webhooks, newest first, and whether there are older ones."""

    webhooks: list[Webhook]
    has_more: bool


@dataclass(frozen=True, slots=True)
class Shown:
    """A webhook and the secret that it was just given, which nobody is ever shown again."""

    webhook: Webhook
    secret: str = field(repr=False)


def _check_url(services: Services, url: str) -> None:
    """Raises `Invalid` (`url_blocked`) for a URL that may not be called, or whose name does not exist, `Unavailable`
    for one whose name cannot be looked up just now: what is to be called for years is right from the start.
    """
    try:
        services.outbound.check(url)
    except (UrlBlocked, NameUnknown) as error:
        raise Invalid([Problem("/url", UrlBlocked.code, error.detail)]) from None
    except FetchFailed as error:
        raise Unavailable(f"the URL cannot be checked just now: {error.detail}") from None


def create_webhook(services: Services, caller: Caller, request: WebhookRequest) -> Shown:
    """The new endpoint, enabled. Raises `Invalid` for its URL, `Conflict` when there are too many, `Unavailable`
    when this server cannot keep secrets, or look names up.
    """
    secret = request.secret.get_secret_value() if request.secret else new_secret()
    sealed = Sealed(services.vault.encrypt(secret))
    _check_url(services, request.url)
    new = NewWebhook(request.url, tuple(request.events or DEFAULT_EVENTS), sealed, request.description)
    return Shown(services.database.transact(lambda c: sql.insert_webhook(c, caller.tenant_id, new)), secret)


def list_webhooks(services: Services, caller: Caller, *, limit: int, after: str | None) -> Page:
    """One page of the caller's standing webhooks, older than the id `after`."""
    with services.database.read() as connection:
        found = sql.list_webhooks(connection, caller.tenant_id, limit=limit + 1, after=after)
    return Page(found[:limit], has_more=len(found) > limit)


def look_at_webhook(services: Services, caller: Caller, webhook_id: str) -> Webhook:
    """The webhook as it is now, standing or of a job. Raises `NotFound`."""
    with services.database.read() as connection:
        return require_webhook(connection, caller, webhook_id)


def require_webhook(connection: Connection, caller: Caller, webhook_id: str) -> Webhook:
    """The tenant's webhook. Raises `NotFound`, alike for malformed, foreign and unknown ids."""
    found = sql.find_webhook(connection, caller.tenant_id, webhook_id) if is_id(webhook_id, "whe") else None
    if found is None:
        raise NotFound(_UNKNOWN)
    return found


def delete_webhook(services: Services, caller: Caller, webhook_id: str) -> None:
    """Forget the webhook and its deliveries. Raises `NotFound`, `Conflict` for one of a job, which goes with it."""

    def work(connection: Connection) -> None:
        if require_webhook(connection, caller, webhook_id).job_id is not None:
            raise Conflict("this webhook belongs to a job and goes with it; only standing ones can be deleted")
        sql.delete_webhook(connection, caller.tenant_id, webhook_id)

    services.database.transact(work)


def rotate_webhook(services: Services, caller: Caller, webhook_id: str, request: RotateRequest) -> Shown:
    """The webhook with its new secret; the one before signs too for a while. Raises `NotFound`, `Unavailable`."""
    secret = request.secret.get_secret_value() if request.secret else new_secret()
    sealed, keep_seconds = services.vault.encrypt(secret), services.settings.webhook_rotation_seconds

    def work(connection: Connection) -> Webhook:
        require_webhook(connection, caller, webhook_id)
        sql.rotate_secret(connection, caller.tenant_id, webhook_id, sealed, keep_seconds=keep_seconds)
        return require_webhook(connection, caller, webhook_id)

    return Shown(services.database.transact(work), secret)


def enable_webhook(services: Services, caller: Caller, webhook_id: str) -> Webhook:
    """The webhook, enabled from now on; what became `disabled` meanwhile is not sent by itself. Raises `NotFound`."""

    def work(connection: Connection) -> Webhook:
        require_webhook(connection, caller, webhook_id)
        sql.enable_webhook(connection, caller.tenant_id, webhook_id)
        return require_webhook(connection, caller, webhook_id)

    return services.database.transact(work)


def try_webhook(services: Services, caller: Caller, webhook_id: str) -> Delivery:
    """A delivery of `webhook.test` on its way. Raises `NotFound`, `Conflict` while the webhook is disabled."""

    def work(connection: Connection) -> Delivery | None:
        require_webhook(connection, caller, webhook_id)
        return announce_test(connection, caller.tenant_id, webhook_id)

    delivery = services.database.transact(work)
    if delivery is None:
        raise NotFound(_UNKNOWN)
    services.doorbell.ring_courier()
    return delivery
