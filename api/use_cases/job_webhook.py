"""The webhook of a single job: checked before anything is stored, written with the job."""

from typing import Final

from sqlalchemy import Connection

from api.dependencies import Services
from api.schemas.webhooks import JobWebhookRequest
from api.use_cases.webhooks import check_webhook_url
from common.db import webhooks as sql
from common.db.tenants import Caller
from common.db.webhooks import NewWebhook, Sealed
from common.domain.errors import Invalid, Problem
from common.domain.webhook_events import DEFAULT_EVENTS

_POINTER: Final = "/webhook"
_DEFAULT_EVENTS: Final = tuple(event for event in DEFAULT_EVENTS if event.startswith("job."))


def prepare_webhook(services: Services, caller: Caller, wish: JobWebhookRequest) -> NewWebhook:
    """What the job's endpoint will be; nothing is stored.

    Raises `Invalid` for its URL, and for a missing secret when the tenant has no enabled standing endpoint whose
    secret could sign; `Unavailable` when this server cannot keep secrets.
    """
    check_webhook_url(services, wish.url, f"{_POINTER}/url")
    sealed = Sealed(services.vault.encrypt(wish.secret.get_secret_value())) if wish.secret else None
    if sealed is None:
        with services.database.read() as connection:
            if sql.find_lender(connection, caller.tenant_id) is None:
                raise _no_secret()
    return NewWebhook(wish.url, tuple(wish.events or _DEFAULT_EVENTS), sealed)


def carry_webhook(services: Services, caller: Caller, job_id: str) -> NewWebhook | None:
    """The endpoint of an earlier job, for another one: its URL is checked again, its secret stays.

    None when that job has none, or none any more. Raises `Invalid` for its URL.
    """
    with services.database.read() as connection:
        carried = sql.find_job_webhook(connection, caller.tenant_id, job_id)
    if carried is not None:
        check_webhook_url(services, carried.url, f"{_POINTER}/url")
    return carried


def keep_webhook(connection: Connection, tenant_id: str, job_id: str, webhook: NewWebhook) -> None:
    """Write the endpoint, in the transaction that inserts the job. Raises `Invalid` when what was to sign has gone."""
    if not sql.insert_job_webhook(connection, tenant_id, job_id, webhook):
        raise _no_secret()


def _no_secret() -> Invalid:
    detail = (
        "secret is required: give one (whsec_ and the base64 of 24 to 64 random bytes), or register a webhook with "
        "POST /v1/webhooks, whose secret then signs"
    )
    return Invalid([Problem(f"{_POINTER}/secret", "validation_error", detail)])
