"""Deliveries: the log of what was told to webhooks, and telling it again."""

from typing import Annotated

from anyio import to_thread
from fastapi import APIRouter, Depends, Query, Request, Response
from fastapi.responses import JSONResponse

from api.auth import WebhookOwner
from api.bodies import read_json_body
from api.dependencies import ServicesDep, accepts_query, refuse_body
from api.presenters import present_delivery
from api.routes.responses import PROBLEMS, refusals, takes_json
from api.schemas.webhooks import (
    Delivery,
    DeliveryDetail,
    DeliveryPage,
    DeliveryStatus,
    Redelivered,
    RedeliverRequest,
)
from api.use_cases import deliveries as use_cases
from common.requests.validation import parse_as

router = APIRouter(prefix="/v1/deliveries", tags=["webhooks"], responses=PROBLEMS)

DeliveryId = Annotated[str | None, Query(pattern=r"^whd_[0-9a-f]{32}$", description="Deliveries older than this one.")]
JobId = Annotated[str | None, Query(pattern=r"^job_[0-9a-f]{32}$", description="Only those that tell of this job.")]
BatchId = Annotated[
    str | None,
    Query(pattern=r"^bat_[0-9a-f]{32}$", description="Only those that tell of this batch itself; not beside `job`."),
]
WebhookId = Annotated[str | None, Query(pattern=r"^whe_[0-9a-f]{32}$", description="Only those for this endpoint.")]
Status = Annotated[
    DeliveryStatus | None,
    Query(
        description="Only those that are `pending` (to be sent, or sent again), `delivered`, `failed` (given up after "
        "every attempt) or `disabled` (their webhook was)."
    ),
]


@router.get(
    "",
    summary="List deliveries, newest first",
    responses={200: {"model": DeliveryPage}},
    dependencies=[accepts_query("limit", "after", "job", "batch", "webhook", "status")],
)
def index(
    services: ServicesDep,
    caller: WebhookOwner,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
    after: DeliveryId = None,
    job: JobId = None,
    batch: BatchId = None,
    webhook: WebhookId = None,
    status: Status = None,
) -> Response:
    """What was told, or is about to be, to standing webhooks and those of jobs and batches, with a log of attempts."""
    filters = {
        "subject_id": use_cases.choose_subject(job, batch, "/query/batch"),
        "webhook_id": webhook,
        "state": status,
    }
    page = use_cases.list_deliveries(services, caller, limit=limit, after=after, filters=filters)
    data = [present_delivery(one) for one in page.deliveries]
    following = page.deliveries[-1].id if page.has_more else None
    return JSONResponse({"data": data, "has_more": page.has_more, "next": following})


@router.post(
    "/redeliver",
    status_code=202,
    summary="Send many deliveries again",
    response_description="On their way.",
    responses={**refusals(415, 422), 202: {"model": Redelivered}},
    openapi_extra=takes_json(RedeliverRequest, required=False, example={"created_after": "2026-01-31T12:00:00Z"}),
    dependencies=[accepts_query()],
)
async def redeliver_many(request: Request, services: ServicesDep, caller: WebhookOwner) -> Response:
    """After your receiver was away: by default every delivery that was given up.

    Those of disabled webhooks and of erased jobs are left out.
    """
    body = await read_json_body(request, may_be_empty=True)
    wish = parse_as(RedeliverRequest, body.members)
    count = await to_thread.run_sync(use_cases.redeliver_many, services, caller, wish)
    return JSONResponse({"redelivered": count}, 202)


@router.get(
    "/{delivery_id}",
    summary="Look at a delivery",
    responses={**refusals(404), 200: {"model": DeliveryDetail}},
    dependencies=[accepts_query()],
)
def show(services: ServicesDep, caller: WebhookOwner, delivery_id: str) -> Response:
    """With its `body`, as it was sent."""
    delivery = use_cases.look_at_delivery(services, caller, delivery_id)
    return JSONResponse(present_delivery(delivery) | {"body": delivery.body})


@router.post(
    "/{delivery_id}/redeliver",
    status_code=202,
    summary="Send a delivery again",
    response_description="On its way.",
    responses={**refusals(404, 409), 202: {"model": Delivery}},
    dependencies=[accepts_query(), Depends(refuse_body)],
)
def redeliver(services: ServicesDep, caller: WebhookOwner, delivery_id: str) -> Response:
    """At once, with the same `webhook-id` and body; the schedule begins anew, the log goes on.

    409 when its webhook is disabled or its job was erased.
    """
    return JSONResponse(present_delivery(use_cases.redeliver(services, caller, delivery_id)), 202)
