"""The log of deliveries: looked at, and sent again."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import Connection

from api.dependencies import Services
from api.schemas.webhooks import RedeliverRequest
from common.db import deliveries as sql
from common.db.deliveries import Delivery
from common.db.tenants import Caller
from common.db.types import read_clock
from common.domain.errors import Invalid, NotFound, Problem
from common.ids import is_id

_PAGE: Final = 1000


@dataclass(frozen=True, slots=True)
class Page:
    """Some deliveries, newest first, and whether there are older ones."""

    deliveries: list[Delivery]
    has_more: bool


def list_deliveries(
    services: Services, caller: Caller, *, limit: int, after: str | None, filters: Mapping[str, Any]
) -> Page:
    """One page of the caller's deliveries, older than the id `after`; a filter that is None does not filter."""
    wanted = _given(filters)
    with services.database.read() as connection:
        found = sql.list_deliveries(connection, caller.tenant_id, limit=limit + 1, after=after, filters=wanted)
    return Page(found[:limit], has_more=len(found) > limit)


def look_at_delivery(services: Services, caller: Caller, delivery_id: str) -> Delivery:
    """The delivery as it is now. Raises `NotFound`, alike for malformed, foreign and unknown ids."""
    with services.database.read() as connection:
        found = sql.find_delivery(connection, caller.tenant_id, delivery_id) if is_id(delivery_id, "whd") else None
    if found is None:
        raise NotFound("there is no such delivery")
    return found


def redeliver(services: Services, caller: Caller, delivery_id: str) -> Delivery:
    """The delivery, on its way again, with the id and body of the first time.

    Raises `NotFound`, `Conflict` when its webhook is disabled or its job was erased.
    """

    def work(connection: Connection) -> Delivery:
        found = sql.redeliver(connection, caller.tenant_id, delivery_id) if is_id(delivery_id, "whd") else None
        if found is None:
            raise NotFound("there is no such delivery")
        return found

    delivery = services.database.transact(work)
    services.doorbell.ring_courier()
    return delivery


def redeliver_many(services: Services, caller: Caller, request: RedeliverRequest) -> int:
    """Send again what the request names, in pages of their own transactions. Returns how many deliveries.

    Those of disabled webhooks and erased jobs are left out. Raises `Invalid` for a job beside a batch.
    """
    with services.database.read() as connection:
        began = read_clock(connection)
    subject = choose_subject(request.job, request.batch, "/batch")
    filters = _given({"webhook_id": request.webhook, "subject_id": subject, "state": request.status})

    def send_page(connection: Connection) -> int:
        return sql.redeliver_many(
            connection,
            caller.tenant_id,
            filters=filters,
            created_after=request.created_after,
            created_before=request.created_before,
            limit=_PAGE,
            ended_before=began,
        )

    total, sent = 0, _PAGE
    while sent == _PAGE:
        sent = services.database.transact(send_page)
        total += sent
        services.doorbell.ring_courier()
    return total


def choose_subject(job: str | None, batch: str | None, pointer: str) -> str | None:
    """The job or batch that is asked for, or None. Raises `Invalid`, at `pointer`, when both are."""
    if job is not None and batch is not None:
        raise Invalid([Problem(pointer, "validation_error", "give a job or a batch, not both")])
    return job or batch


def _given(filters: Mapping[str, Any]) -> dict[str, Any]:
    return {column: value for column, value in filters.items() if value is not None}
