"""The webhook of a single job: checked before anything is stored, written with the job. Batches share the checks."""

from typing import Final

from sqlalchemy import Connection

from api.dependencies import Services
from common.db import webhooks as sql
from common.db.tenants import Caller
from common.db.webhooks import NewWebhook, Sealed
from common.domain.errors import Invalid, Problem
from common.domain.webhook_events import DEFAULT_EVENTS
from common.outbound.errors import FetchFailed, UrlBlocked
from common.requests.webhooks import JobWebhookRequest, OwnWebhook

_POINTER: Final = "/webhook"
_DEFAULT_EVENTS: Final = tuple(event for event in DEFAULT_EVENTS if event.startswith("job."))


def prepare_webhook(services: Services, caller: Caller, wish: JobWebhookRequest) -> NewWebhook:
    """What the job's endpoint will be; nothing is stored.

    Raises `Invalid` for its URL, and for a missing secret when the tenant has no enabled standing endpoint whose
    secret could sign; `Unavailable` when this server cannot keep secrets.
    """
    return prepare_endpoint(services, caller, wish, tuple(wish.events or _DEFAULT_EVENTS))


def prepare_endpoint(services: Services, caller: Caller, wish: OwnWebhook, events: tuple[str, ...]) -> NewWebhook:
    """The same for whatever it tells of."""
    check_endpoint(services, wish.url)
    sealed = Sealed(services.vault.encrypt(wish.secret.get_secret_value())) if wish.secret else None
    if sealed is None:
        with services.database.read() as connection:
            if sql.find_lender(connection, caller.tenant_id) is None:
                raise no_secret()
    return NewWebhook(wish.url, events, sealed)


def carry_webhook(services: Services, caller: Caller, job_id: str) -> NewWebhook | None:
    """The endpoint of an earlier job, for another one: its URL is checked again, its secret is taken over when the
    other one is written.

    None when that job has none, or none any more. Raises `Invalid` for its URL.
    """
    with services.database.read() as connection:
        carried = sql.find_job_webhook(connection, caller.tenant_id, job_id)
    if carried is not None:
        check_endpoint(services, carried.url)
    return carried


def keep_webhook(connection: Connection, tenant_id: str, job_id: str, webhook: NewWebhook) -> None:
    """Write the endpoint, in the transaction that inserts the job. Raises `Invalid` when what was to sign has gone."""
    if not sql.insert_job_webhook(connection, tenant_id, job_id, webhook):
        raise no_secret()


def check_endpoint(services: Services, url: str) -> None:
    """Raises `Invalid` (`url_blocked`) for a URL that may not be called.

    Nothing ever depends on its webhook: a name that cannot be looked up is looked up, and judged, at every call.
    """
    try:
        services.outbound.check(url)
    except UrlBlocked as error:
        raise Invalid([Problem(f"{_POINTER}/url", error.code, error.detail)]) from None
    except FetchFailed:
        pass


def no_secret() -> Invalid:
    """There is nothing that could sign."""
    detail = (
        "secret is required: give one (whsec_ and the base64 of 24 to 64 random bytes), or register a webhook with "
        "POST /v1/webhooks, whose secret then signs"
    )
    return Invalid([Problem(f"{_POINTER}/secret", "validation_error", detail)])
