"""Jobs: submit, look, list, change, cancel, retry, erase."""

from typing import Annotated, Any, Final, Literal

from anyio import to_thread
from fastapi import APIRouter, Depends, Header, Query, Request, Response
from fastapi.responses import JSONResponse

from api.auth import Reader, Writer
from api.bodies import Body, read_body, read_json_body
from api.dependencies import ServicesDep, accepts_query, base_url, refuse_body, room_for_a_body
from api.routes.responses import PROBLEMS, has_match, job_response, not_modified, refusals
from api.schemas.job import DryRun, Job, JobPage
from api.schemas.job_edits import JobEditRequest, RetryRequest
from api.schemas.job_request import Tag, TaskName
from api.schemas.moments import Moment
from api.use_cases.cancel_job import cancel_job
from api.use_cases.edit_job import edit_job
from api.use_cases.erase_job import erase_job
from api.use_cases.idempotency import Idempotency, check_keys
from api.use_cases.look_up import look_at_job, look_at_jobs
from api.use_cases.plan_job import Plan
from api.use_cases.retry_job import Retry, retry_job
from api.use_cases.submit_job import Submission, Submitted, preview_submit, submit_job
from api.validation import parse_as, parse_job_request
from common.clock import utc_now
from common.domain.errors import Invalid, Problem
from common.job_document import job_etag, job_url, present_job

router = APIRouter(prefix="/v1/jobs", tags=["jobs"], responses=PROBLEMS)

State = Literal["queued", "running", "succeeded", "failed", "canceled"]
JobId = Annotated[str, Query(pattern=r"^job_[0-9a-f]{32}$", description="Jobs older than this one.")]
ModelId = Annotated[str, Query(pattern=r"^[A-Za-z0-9._-]{1,100}$")]
IdempotencyKey = Annotated[str | None, Header(description="1 to 255 visible ASCII characters; kept for 24 hours.")]

_FILTERS: Final = ("status", "task", "model", "tag", "created_after", "created_before")
_ACCEPTED: Final[dict[str, Any]] = {"model": Job, "headers": {"Location": {"schema": {"type": "string"}}}}
_JSON: Final = "application/json"
_RETRY_BODY: Final = {
    "type": "object",
    "properties": {"overrides": {"$ref": "#/components/schemas/JobRequest"}},
    "additionalProperties": False,
    "example": {"overrides": {"num_inference_steps": 20, "seed": None}},
}


@router.post(
    "",
    status_code=202,
    summary="Submit a job",
    response_description="Accepted; the job is durable.",
    responses={
        202: _ACCEPTED,
        200: {"model": Job | DryRun, "description": "A dry run, or the repetition of a request whose job is finished."},
    },
    dependencies=[accepts_query("dry_run")],
)
async def submit(
    request: Request,
    services: ServicesDep,
    caller: Writer,
    dry_run: Annotated[bool, Query(description="Check everything, store nothing.")] = False,
    idempotency_key: IdempotencyKey = None,
) -> Response:
    """Send JSON, or a multipart form: `curl -F image=@cat.png -F prompt="a red cat" -F strength=0.6 …`.

    With an `Idempotency-Key` the same request makes one job however often it is sent; a repetition answers that job
    as it now is, with `Idempotent-Replayed: true`.
    """
    key = check_keys(request.headers.getlist("idempotency-key"))
    async with room_for_a_body(services):
        body = await read_body(request)

        def work() -> Submitted | Plan:
            submission = _submission(request, body, key)
            return (preview_submit if dry_run else submit_job)(services, caller, submission)

        outcome = await to_thread.run_sync(work, limiter=services.submits)
    return _answer(request, outcome)


@router.get(
    "",
    summary="List jobs, newest first",
    responses={200: {"model": JobPage}},
    dependencies=[accepts_query("limit", "after", *_FILTERS)],
)
def index(
    request: Request,
    services: ServicesDep,
    caller: Reader,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
    after: JobId | None = None,
    status: State | None = None,
    task: TaskName | None = None,
    model: ModelId | None = None,
    tag: Annotated[Tag | None, Query(description="Among the job's tags.")] = None,
    created_after: Moment | None = None,
    created_before: Moment | None = None,
) -> Response:
    """Pages are stable while new jobs come in: `?after=` takes the `next` of the page before."""
    filters: dict[str, Any] = {"state": status, "task": task, "model": model, "tag": tag}
    filters |= {"created_after": created_after, "created_before": created_before}
    page = look_at_jobs(services, caller, limit=limit, after=after, filters=filters)
    base, now = base_url(request), utc_now()
    data = [present_job(job, base, now) for job in page.jobs]
    following = page.jobs[-1].id if page.has_more else None
    return JSONResponse({"data": data, "has_more": page.has_more, "next": following})


@router.get(
    "/{job_id}",
    summary="Look at a job",
    responses={200: {"model": Job}, 304: {"description": "Nothing changed since the `If-None-Match` tag."}},
    dependencies=[accepts_query()],
)
def show(request: Request, services: ServicesDep, caller: Reader, job_id: str) -> Response:
    """Poll this until `status` is terminal; `Retry-After` suggests the interval, `ETag` spares the body."""
    job = look_at_job(services, caller, job_id)
    if has_match(request, job_etag(job)):
        return not_modified(job_etag(job), {"Cache-Control": "private, no-cache"})
    return job_response(request, job)


@router.post(
    "/{job_id}/cancel",
    summary="Cancel a job",
    responses={200: {"model": Job}},
    dependencies=[accepts_query(), Depends(refuse_body)],
)
def cancel(request: Request, services: ServicesDep, caller: Writer, job_id: str) -> Response:
    """At once if no device has started it, else at the next step. A finished job stays as it is; repeat at will."""
    return job_response(request, cancel_job(services, caller, job_id))


@router.patch(
    "/{job_id}",
    summary="Change a queued job",
    responses={**refusals(403, 404, 409, 410, 415, 422), 200: {"model": Job}},
    openapi_extra={
        "requestBody": {"required": True, "content": {_JSON: {"schema": JobEditRequest.model_json_schema()}}}
    },
    dependencies=[accepts_query()],
)
async def edit(request: Request, services: ServicesDep, caller: Writer, job_id: str) -> Response:
    """Its priority, tags and metadata, as long as it is `queued`; 409 `not_editable` afterwards.

    Each is replaced as a whole. Another priority puts the job where one of that priority, submitted now, would stand.
    """
    body = await read_json_body(request)
    job = await to_thread.run_sync(edit_job, services, caller, job_id, parse_as(JobEditRequest, body.members))
    return job_response(request, job)


@router.post(
    "/{job_id}/retry",
    status_code=202,
    summary="Try a job again",
    response_description="Accepted: a new job, with `retry_of`.",
    responses={
        **refusals(403, 404, 409, 410, 415, 422),
        202: _ACCEPTED,
        200: {"model": Job, "description": "The repetition of a request whose job is finished."},
    },
    openapi_extra={"requestBody": {"required": False, "content": {_JSON: {"schema": _RETRY_BODY}}}},
    dependencies=[accepts_query()],
)
async def retry(
    request: Request, services: ServicesDep, caller: Writer, job_id: str, idempotency_key: IdempotencyKey = None
) -> Response:
    """A new job with the request of one that failed or was canceled, and with `overrides` in place of its fields.

    An override replaces its field as a whole, null is back to the default. The images stay, as they were prepared for
    the first job, and so does the seed that it was told; `"seed": null` draws another. Tags, metadata, external id and
    priority (as far as the key may use it) are carried over. `Idempotency-Key` works as at a submit.
    """
    key = check_keys(request.headers.getlist("idempotency-key"))
    async with room_for_a_body(services):
        body = await read_json_body(request, may_be_empty=True)
        overrides = parse_as(RetryRequest, body.members).overrides
        wish = Retry(job_id, overrides, _idempotency(request, body, key))
        outcome = await to_thread.run_sync(retry_job, services, caller, wish, limiter=services.submits)
    return _answer(request, outcome)


@router.delete(
    "/{job_id}",
    status_code=204,
    summary="Erase a job",
    response_description="Erased, now or before.",
    responses=refusals(404),
    dependencies=[accepts_query(), Depends(refuse_body)],
)
def erase(services: ServicesDep, caller: Writer, job_id: str) -> Response:
    """Cancels it if need be and erases inputs, results and prompt; what another job uses too stays with that one.

    From then on whatever is asked of it answers 410 `gone`, and lists leave it out; only a repeated DELETE answers
    204 again.
    """
    erase_job(services, caller, job_id)
    return Response(status_code=204)


def _submission(request: Request, body: Body, key: str | None) -> Submission:
    parsed = parse_job_request(body.members)
    for role in body.files:
        if getattr(parsed, role) is not None:
            raise Invalid([Problem(f"/{role}", "validation_error", f"{role} is given twice")])
    return Submission(parsed, body.files, _idempotency(request, body, key))


def _idempotency(request: Request, body: Body, key: str | None) -> Idempotency | None:
    return Idempotency(key, body.fingerprint(request.method, request.url.path)) if key else None


def _answer(request: Request, outcome: Submitted | Plan) -> Response:
    if isinstance(outcome, Plan):
        return JSONResponse(_present_plan(outcome))
    headers = {"Location": job_url(base_url(request), outcome.job.id)}
    if outcome.replayed:
        headers["Idempotent-Replayed"] = "true"
    is_over = outcome.replayed and outcome.job.state.is_terminal
    return job_response(request, outcome.job, 200 if is_over else 202, headers)


def _present_plan(plan: Plan) -> dict[str, Any]:
    return {
        "feasible": True,
        "effective_params": plan.params.as_dict(),
        "warnings": list(plan.warnings),
        "estimate": {"queue_seconds": None, "run_seconds": round(plan.cost, 3)},
    }
