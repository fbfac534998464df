"""Batches: hand in, look, list, pause, resume, cancel, retry. What comes out of them: `api.routes.batch_results`."""

from collections.abc import Callable
from typing import Annotated, Any, Final

from anyio import to_thread
from fastapi import APIRouter, Depends, Query, Request, Response
from fastapi.responses import JSONResponse

from api.auth import Reader, Writer
from api.batch_bodies import reading_batch_body
from api.bodies import read_json_body
from api.dependencies import Services, ServicesDep, accepts_query, base_url, refuse_body, room_for_a_body
from api.routes.jobs import IdempotencyKey, JobId, State
from api.routes.responses import JOB_HEADERS, LOCATION, PROBLEMS, IfNoneMatch, has_match, not_modified, refusals
from api.schemas.batches import Batch, BatchPage, BatchRetryRequest, BatchStatus
from api.schemas.job import JobPage
from api.use_cases import change_batch
from api.use_cases.idempotency import Idempotency, check_keys
from api.use_cases.look_at_batches import look_at_batch, look_at_batches, look_at_jobs_of_batch
from api.use_cases.retry_batch import BatchRetry, retry_batch
from api.use_cases.submit_batch import BatchSubmission, SubmittedBatch, submit_batch
from common.batch_document import batch_etag, batch_url, poll_seconds, present_batch
from common.clock import utc_now
from common.db.tenants import Caller
from common.domain.batch import BatchOutlook, BatchSnapshot
from common.job_document import present_job
from common.requests.validation import parse_as

router = APIRouter(prefix="/v1/batches", tags=["batches"], responses=PROBLEMS)

BatchId = Annotated[str, Query(pattern=r"^bat_[0-9a-f]{32}$", description="Batches older than this one.")]
Limit = Annotated[int, Query(ge=1, le=100)]
Change = Callable[[Services, Caller, str], BatchSnapshot]

_SEEN: Final[dict[str, Any]] = {"model": Batch, "headers": JOB_HEADERS}
_MADE: Final[dict[str, Any]] = {"model": Batch, "headers": LOCATION | JOB_HEADERS}
_AGAIN: Final = {**_MADE, "description": "The repetition of a request whose batch is over."}
_RETRY_BODY: Final[dict[str, Any]] = {
    "type": "object",
    "properties": {
        "overrides": {"$ref": "#/components/schemas/JobRequest"},
        "include_canceled": {"type": "boolean", "default": False, "description": "Also what was canceled."},
        "on_invalid": {
            "type": "string",
            "enum": ["reject", "skip"],
            "default": "skip",
            "description": BatchRetryRequest.model_fields["on_invalid"].description,
        },
    },
    "additionalProperties": False,
    "example": {"overrides": {"num_inference_steps": 20, "seed": None}},
}


@router.post(
    "",
    status_code=202,
    summary="Hand in a batch",
    response_description="Accepted; the batch is durable, its lines are about to be checked.",
    responses={**refusals(403, 415, 422), 202: _MADE, 200: _AGAIN},
    dependencies=[accepts_query()],
)
async def submit(
    request: Request, services: ServicesDep, caller: Writer, idempotency_key: IdempotencyKey = None
) -> Response:
    """JSON with up to 1000 `items` or a `matrix`, or a form with a manifest of up to 100,000 lines, JSON Lines:
    `curl -F manifest=@manifest.jsonl -F 'request={"defaults": {…}}' …`.

    Its lines are checked before any is queued: with one wrong line the batch is `rejected` with `errors`, unless
    `on_invalid` is `skip`. With an `Idempotency-Key` the same request makes one batch however often it is sent; a
    repetition answers that batch as it now is, with `Idempotent-Replayed: true`.
    """
    key = check_keys(request.headers.getlist("idempotency-key"))
    async with reading_batch_body(request) as body:
        idempotency = Idempotency(key, body.fingerprint) if key else None
        submission = BatchSubmission(body.request, body.draw, idempotency)
        submitted = await to_thread.run_sync(submit_batch, services, caller, submission, limiter=services.submits)
    return _made(request, submitted)


@router.get(
    "",
    summary="List batches, newest first",
    responses={200: {"model": BatchPage}},
    dependencies=[accepts_query("limit", "after", "status")],
)
def index(
    request: Request,
    services: ServicesDep,
    caller: Reader,
    limit: Limit = 20,
    after: BatchId | None = None,
    status: BatchStatus | None = None,
) -> Response:
    """Pages are stable while new batches come in: `?after=` takes the `next` of the page before."""
    page = look_at_batches(services, caller, limit=limit, after=after, state=status)
    base = base_url(request)
    data = [present_batch(batch, base) for batch in page.batches]
    return _page(data, page.batches[-1].id if page.has_more else None)


@router.get(
    "/{batch_id}",
    summary="Look at a batch",
    responses={
        **refusals(404),
        200: _SEEN,
        304: {"description": "Nothing changed since the `If-None-Match` tag; `Retry-After` as ever."},
    },
    dependencies=[accepts_query()],
)
def show(
    request: Request, services: ServicesDep, caller: Reader, batch_id: str, if_none_match: IfNoneMatch = None
) -> Response:
    """Poll this until `status` is `completed`, `canceled` or `rejected`; `Retry-After` suggests the interval."""
    batch, outlook = look_at_batch(services, caller, batch_id)
    headers = _headers(batch, outlook)
    if has_match(request, headers["ETag"]):
        return not_modified(headers.pop("ETag"), headers)
    return JSONResponse(present_batch(batch, base_url(request), outlook), 200, headers)


@router.get(
    "/{batch_id}/jobs",
    summary="List the jobs of a batch, newest first",
    responses={**refusals(404), 200: {"model": JobPage}},
    dependencies=[accepts_query("limit", "after", "status")],
)
def jobs(
    request: Request,
    services: ServicesDep,
    caller: Reader,
    batch_id: str,
    limit: Limit = 20,
    after: JobId | None = None,
    status: State | None = None,
) -> Response:
    """As `GET /v1/jobs?batch=…`, with 404 for a batch that does not exist."""
    page = look_at_jobs_of_batch(services, caller, batch_id, limit=limit, after=after, state=status)
    base, now = base_url(request), utc_now()
    data = [present_job(job, base, now) for job in page.jobs]
    return _page(data, page.jobs[-1].id if page.has_more else None)


@router.post(
    "/{batch_id}/cancel",
    summary="Cancel a batch",
    responses={**refusals(403, 404), 200: _SEEN},
    dependencies=[accepts_query(), Depends(refuse_body)],
)
def cancel(request: Request, services: ServicesDep, caller: Writer, batch_id: str) -> Response:
    """Its jobs as `POST /v1/jobs/{id}/cancel` does it. What has succeeded stays, and so does a batch that is over."""
    return _changed(request, services, caller, batch_id, change_batch.cancel_batch)


@router.post(
    "/{batch_id}/pause",
    summary="Pause a batch",
    responses={**refusals(403, 404, 409), 200: _SEEN},
    dependencies=[accepts_query(), Depends(refuse_body)],
)
def pause(request: Request, services: ServicesDep, caller: Writer, batch_id: str) -> Response:
    """No job of it starts any more until it is resumed; those on a device go on. 409 when it does not run."""
    return _changed(request, services, caller, batch_id, change_batch.pause_batch)


@router.post(
    "/{batch_id}/resume",
    summary="Resume a batch",
    responses={**refusals(403, 404, 409), 200: _SEEN},
    dependencies=[accepts_query(), Depends(refuse_body)],
)
def resume(request: Request, services: ServicesDep, caller: Writer, batch_id: str) -> Response:
    """Its jobs wait for a device again, as if they were submitted now. 409 when it is not paused."""
    return _changed(request, services, caller, batch_id, change_batch.resume_batch)


@router.post(
    "/{batch_id}/retry",
    status_code=202,
    summary="Try again what failed",
    response_description="Accepted: a new batch, with `retry_of`.",
    responses={**refusals(403, 404, 409, 415, 422), 202: _MADE, 200: _AGAIN},
    openapi_extra={"requestBody": {"required": False, "content": {"application/json": {"schema": _RETRY_BODY}}}},
    dependencies=[accepts_query()],
)
async def retry(
    request: Request, services: ServicesDep, caller: Writer, batch_id: str, idempotency_key: IdempotencyKey = None
) -> Response:
    """A new batch of the jobs that failed, in the order of the first one and with its custom ids, each with `retry_of`.

    An override replaces its field as a whole in every job, null is back to the default; images and seeds stay as
    `POST /v1/jobs/{id}/retry` has it. Name, priority, metadata and webhook are carried over. Lines without
    a job cannot be tried again, hand them in anew: those that were wrong are left out, and where a batch was canceled
    before lines of it had a job, `include_canceled` is refused. 409 also while the batch is not over, and when there is
    nothing to try again.
    """
    key = check_keys(request.headers.getlist("idempotency-key"))
    async with room_for_a_body(services):
        body = await read_json_body(request, may_be_empty=True)
        wish = parse_as(BatchRetryRequest, body.members)
        idempotency = Idempotency(key, body.fingerprint(request.method, request.url.path)) if key else None
        again = BatchRetry(batch_id, wish.overrides, wish.include_canceled, wish.on_invalid, idempotency)
        submitted = await to_thread.run_sync(retry_batch, services, caller, again, limiter=services.submits)
    return _made(request, submitted)


def _changed(request: Request, services: Services, caller: Caller, batch_id: str, change: Change) -> Response:
    batch = change(services, caller, batch_id)
    outlook = services.batch_outlooks.of(batch)
    return JSONResponse(present_batch(batch, base_url(request), outlook), 200, _headers(batch, outlook))


def _made(request: Request, submitted: SubmittedBatch) -> Response:
    batch, outlook = submitted.batch, BatchOutlook()
    headers = {"Location": batch_url(base_url(request), batch.id), **_headers(batch, outlook)}
    if submitted.replayed:
        headers["Idempotent-Replayed"] = "true"
    is_over = submitted.replayed and batch.state.is_terminal
    return JSONResponse(present_batch(batch, base_url(request), outlook), 200 if is_over else 202, headers)


def _headers(batch: BatchSnapshot, outlook: BatchOutlook) -> dict[str, str]:
    own = {"ETag": batch_etag(batch, outlook), "Cache-Control": "private, no-cache"}
    if not batch.state.is_terminal:
        own["Retry-After"] = str(poll_seconds(batch, outlook))
    return own


def _page(data: list[dict[str, Any]], following: str | None) -> Response:
    return JSONResponse({"data": data, "has_more": following is not None, "next": following})
