"""The webhook of a batch: as that of a single job, with its own events."""

from typing import Final, get_args

from sqlalchemy import Connection

from api.dependencies import Services
from api.use_cases.job_webhook import check_endpoint, no_secret, prepare_endpoint
from common.db import webhooks as sql
from common.db.tenants import Caller
from common.db.webhooks import NewWebhook
from common.requests.webhooks import BatchEvent, BatchWebhookRequest

_DEFAULT_EVENTS: Final[tuple[str, ...]] = get_args(BatchEvent)


def prepare_batch_webhook(services: Services, caller: Caller, wish: BatchWebhookRequest) -> NewWebhook:
    """What the batch's endpoint will be; nothing is stored. Raises as `prepare_webhook` does."""
    return prepare_endpoint(services, caller, wish, tuple(wish.events or _DEFAULT_EVENTS))


def carry_batch_webhook(services: Services, caller: Caller, batch_id: str) -> NewWebhook | None:
    """The endpoint of an earlier batch, for another one. As `carry_webhook` does it for jobs."""
    with services.database.read() as connection:
        carried = sql.find_batch_webhook(connection, caller.tenant_id, batch_id)
    if carried is not None:
        check_endpoint(services, carried.url)
    return carried


def keep_batch_webhook(connection: Connection, tenant_id: str, batch_id: str, webhook: NewWebhook) -> None:
    """Write the endpoint, in the transaction that inserts the batch. Raises as `keep_webhook` does."""
    if not sql.insert_batch_webhook(connection, tenant_id, batch_id, webhook):
        raise no_secret()
