"""Webhooks: standing endpoints that hear of every job of their tenant."""

from typing import Annotated, Any, Final

from anyio import to_thread
from fastapi import APIRouter, Depends, Query, Request, Response
from fastapi.responses import JSONResponse

from api.auth import WebhookOwner
from api.bodies import read_json_body
from api.dependencies import ServicesDep, accepts_query, base_url, refuse_body
from api.presenters import present_delivery, present_webhook, webhook_url
from api.routes.responses import LOCATION, PROBLEMS, refusals, takes_json
from api.schemas.webhooks import Delivery, RotateRequest, Webhook, WebhookPage, WebhookRequest, WebhookWithSecret
from api.use_cases import webhooks as use_cases
from api.use_cases.webhooks import Shown
from common.requests.validation import parse_as

router = APIRouter(prefix="/v1/webhooks", tags=["webhooks"], responses=PROBLEMS)

WebhookId = Annotated[str, Query(pattern=r"^whe_[0-9a-f]{32}$", description="Webhooks older than this one.")]

_EXAMPLE: Final = {"url": "https://example.com/darkroom", "events": ["job.succeeded", "job.failed"]}


@router.post(
    "",
    status_code=201,
    summary="Register a webhook",
    response_description="Registered and enabled. The `secret` is shown only now.",
    responses={**refusals(403, 409, 415, 422), 201: {"model": WebhookWithSecret, "headers": LOCATION}},
    openapi_extra=takes_json(WebhookRequest, example=_EXAMPLE),
    dependencies=[accepts_query()],
)
async def create(request: Request, services: ServicesDep, caller: WebhookOwner) -> Response:
    """From now on every job of yours that comes to one of `events` is told to `url`: signed, retried for three days.

    The URL is checked now, and again before every call: a public https address, or 422 `url_blocked`. At most 50.
    """
    body = await read_json_body(request)
    wish = parse_as(WebhookRequest, body.members)
    shown = await to_thread.run_sync(use_cases.create_webhook, services, caller, wish)
    headers = {"Location": webhook_url(base_url(request), shown.webhook.id)}
    return JSONResponse(_with_secret(request, shown), 201, headers)


@router.get(
    "",
    summary="List webhooks, newest first",
    responses={200: {"model": WebhookPage}},
    dependencies=[accepts_query("limit", "after")],
)
def index(
    request: Request,
    services: ServicesDep,
    caller: WebhookOwner,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
    after: WebhookId | None = None,
) -> Response:
    """The standing ones; those of single jobs are named by their deliveries."""
    page = use_cases.list_webhooks(services, caller, limit=limit, after=after)
    data = [present_webhook(one, base_url(request)) for one in page.webhooks]
    following = page.webhooks[-1].id if page.has_more else None
    return JSONResponse({"data": data, "has_more": page.has_more, "next": following})


@router.get(
    "/{webhook_id}",
    summary="Look at a webhook",
    responses={**refusals(404), 200: {"model": Webhook}},
    dependencies=[accepts_query()],
)
def show(request: Request, services: ServicesDep, caller: WebhookOwner, webhook_id: str) -> Response:
    """Its secret is not shown again."""
    webhook = use_cases.look_at_webhook(services, caller, webhook_id)
    return JSONResponse(present_webhook(webhook, base_url(request)))


@router.delete(
    "/{webhook_id}",
    status_code=204,
    summary="Delete a webhook",
    response_description="Deleted, with its deliveries.",
    responses=refusals(404, 409),
    dependencies=[accepts_query(), Depends(refuse_body)],
)
def delete(services: ServicesDep, caller: WebhookOwner, webhook_id: str) -> Response:
    """Nothing is sent to it any more. The endpoint of a single job cannot be deleted (409)."""
    use_cases.delete_webhook(services, caller, webhook_id)
    return Response(status_code=204)


@router.post(
    "/{webhook_id}/rotate",
    summary="Give a webhook another secret",
    response_description="The new `secret`, shown only now.",
    responses={**refusals(404, 415, 422), 200: {"model": WebhookWithSecret}},
    openapi_extra=takes_json(RotateRequest, required=False),
    dependencies=[accepts_query()],
)
async def rotate(request: Request, services: ServicesDep, caller: WebhookOwner, webhook_id: str) -> Response:
    """Deliveries have two signatures, of the new secret and the old, until `old_secret_until`: 24 hours.

    Rotated again within that time, the oldest of the three signs no more.
    """
    body = await read_json_body(request, may_be_empty=True)
    wish = parse_as(RotateRequest, body.members)
    shown = await to_thread.run_sync(use_cases.rotate_webhook, services, caller, webhook_id, wish)
    return JSONResponse(_with_secret(request, shown))


@router.post(
    "/{webhook_id}/test",
    status_code=202,
    summary="Send a test event",
    response_description="On its way; look at its `log`.",
    responses={**refusals(404, 409), 202: {"model": Delivery}},
    dependencies=[accepts_query(), Depends(refuse_body)],
)
def test(services: ServicesDep, caller: WebhookOwner, webhook_id: str) -> Response:
    """A `webhook.test`, signed and retried like every other delivery."""
    return JSONResponse(present_delivery(use_cases.try_webhook(services, caller, webhook_id)), 202)


@router.post(
    "/{webhook_id}/enable",
    summary="Enable a webhook",
    responses={**refusals(404), 200: {"model": Webhook}},
    dependencies=[accepts_query(), Depends(refuse_body)],
)
def enable(request: Request, services: ServicesDep, caller: WebhookOwner, webhook_id: str) -> Response:
    """After it was disabled for answering 410 or failing for days. What it missed is sent by a redelivery."""
    webhook = use_cases.enable_webhook(services, caller, webhook_id)
    return JSONResponse(present_webhook(webhook, base_url(request)))


def _with_secret(request: Request, shown: Shown) -> dict[str, Any]:
    return present_webhook(shown.webhook, base_url(request)) | {"secret": shown.secret}
