"""Jobs: submit, look, list, change, cancel, retry, erase."""

from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal

from anyio import to_thread
from fastapi import APIRouter, Depends, Header, Query, Request, Response
from fastapi.responses import JSONResponse

from api.auth import Reader, Writer
from api.bodies import read_json_body
from api.dependencies import Services, ServicesDep, accepts_query, base_url, refuse_body
from api.preferences import MOST_WAIT_SECONDS, wait_preference
from api.routes.intake import take_job, take_retry
from api.routes.responses import (
    JOB_HEADERS,
    LOCATION,
    PROBLEMS,
    IfNoneMatch,
    job_response,
    job_unless_known,
    refusals,
)
from api.schemas.job import DryRun, Job, JobPage
from api.schemas.job_edits import JobEditRequest
from api.schemas.moments import Moment
from api.use_cases.cancel_job import cancel_job
from api.use_cases.edit_job import edit_job
from api.use_cases.erase_job import erase_job
from api.use_cases.idempotency import check_keys
from api.use_cases.look_up import look_at_job, look_at_jobs
from api.use_cases.submit_job import Preview, Submitted
from api.use_cases.wait_for_job import sight_job, wait_for_end, wait_for_job
from common.clock import utc_now
from common.job_document import job_url, present_job
from common.requests.job import Tag, TaskName
from common.requests.validation import parse_as

router = APIRouter(prefix="/v1/jobs", tags=["jobs"], responses=PROBLEMS)

State = Literal["queued", "running", "succeeded", "failed", "canceled"]
JobId = Annotated[str, Query(pattern=r"^job_[0-9a-f]{32}$", description="Jobs older than this one.")]
BatchId = Annotated[str, Query(pattern=r"^bat_[0-9a-f]{32}$", description="Of this batch.")]
ModelId = Annotated[str, Query(pattern=r"^[A-Za-z0-9._-]{1,100}$")]
Since = Annotated[int | None, Query(ge=0, description="A version that is known already; by default the one now.")]
Wait = Annotated[int, Query(ge=0, le=MOST_WAIT_SECONDS, description="How long to wait for a change, in seconds.")]
Preferences = Annotated[
    str | None,
    Header(
        description="Preferences as RFC 7240 has them, of which this is known: `wait=N` (a whole number, 1-60): answer "
        "when the job is over, after N seconds at the latest. Others are passed over.",
        examples=["wait=30"],
    ),
]
IdempotencyKey = Annotated[str | None, Header(description="1 to 255 visible ASCII characters; kept for 24 hours.")]

_FILTERS: Final = ("status", "task", "model", "batch", "tag", "created_after", "created_before")
_APPLIED: Final[dict[str, Any]] = {
    "Preference-Applied": {"description": "`wait=N`, if it was.", "schema": {"type": "string"}}
}
_MADE: Final = LOCATION | JOB_HEADERS
_SEEN: Final[dict[str, Any]] = {"model": Job, "headers": JOB_HEADERS}
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
        202: {"model": Job, "headers": _MADE | _APPLIED},
        200: {
            "model": Job | DryRun,
            "headers": _MADE | _APPLIED,
            "description": "A dry run, a job that finished while the answer waited (`Prefer`), or the repetition of a "
            "request whose job is finished.",
        },
    },
    dependencies=[accepts_query("dry_run")],
)
async def submit(
    request: Request,
    services: ServicesDep,
    caller: Writer,
    dry_run: Annotated[bool, Query(description="Check everything, store nothing.")] = False,
    idempotency_key: IdempotencyKey = None,
    prefer: Preferences = None,
) -> Response:
    """Send JSON, or a multipart form: `curl -F image=@cat.png -F prompt="a red cat" -F strength=0.6 …`.

    With an `Idempotency-Key` the same request makes one job however often it is sent; a repetition answers that job
    as it now is, with `Idempotent-Replayed: true`. With `Prefer: wait=N` the answer waits for the end of the job.
    """
    key = check_keys(request.headers.getlist("idempotency-key"))
    seconds = wait_preference(request.headers.getlist("prefer"))
    moment = services.room.clock()
    outcome = await take_job(request, services, caller, key, dry_run=dry_run)
    if seconds and isinstance(outcome, Submitted):
        finished = await wait_for_end(services.room, outcome.job, request.receive, seconds=seconds, seen_at=moment)
        if finished is not None:
            applied = {"Preference-Applied": f"wait={seconds}"}
            return _answer(request, services, Submitted(finished, replayed=outcome.replayed), applied)
    return _answer(request, services, outcome)


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
    batch: BatchId | None = None,
    tag: Annotated[Tag | None, Query(description="Among the job's tags.")] = None,
    created_after: Moment | None = None,
    created_before: Moment | None = None,
) -> Response:
    """Pages are stable while new jobs come in: `?after=` takes the `next` of the page before."""
    filters: dict[str, Any] = {"state": status, "task": task, "model": model, "batch": batch, "tag": tag}
    filters |= {"created_after": created_after, "created_before": created_before}
    page = look_at_jobs(services, caller, limit=limit, after=after, filters=filters)
    base, now = base_url(request), utc_now()
    data = [present_job(job, base, now) for job in page.jobs]
    following = page.jobs[-1].id if page.has_more else None
    return JSONResponse({"data": data, "has_more": page.has_more, "next": following})


@router.get(
    "/{job_id}",
    summary="Look at a job",
    responses={
        200: _SEEN,
        304: {
            "description": "Nothing changed since the `If-None-Match` tag; `Retry-After` as ever.",
            "headers": JOB_HEADERS,
        },
    },
    dependencies=[accepts_query("wait", "since")],
)
async def show(
    request: Request,
    services: ServicesDep,
    caller: Reader,
    job_id: str,
    wait: Wait = 0,
    since: Since = None,
    if_none_match: IfNoneMatch = None,
) -> Response:
    """Poll this until `status` is terminal; `Retry-After` suggests the interval, `ETag` spares the body.

    With `wait` the answer comes when the job's version is above `since`, when it is over, or after so many seconds.
    """
    if wait:
        sighting = await sight_job(services, caller, job_id)
        known = sighting.job.version if since is None else since
        job, outlook = await wait_for_job(
            services.room, sighting, request.receive, seconds=wait, is_news=lambda job: job.version > known
        )
    else:
        job, outlook = await to_thread.run_sync(look_at_job, services, caller, job_id)
    return job_unless_known(request, job, outlook)


@router.post(
    "/{job_id}/cancel",
    summary="Cancel a job",
    responses={200: _SEEN},
    dependencies=[accepts_query(), Depends(refuse_body)],
)
def cancel(request: Request, services: ServicesDep, caller: Writer, job_id: str) -> Response:
    """At once if no device has started it, else at the next step. A finished job stays as it is; repeat at will."""
    job = cancel_job(services, caller, job_id)
    services.room.doubt(job_id)
    return job_response(request, job, services.outlooks.of(job))


@router.patch(
    "/{job_id}",
    summary="Change a queued job",
    responses={**refusals(403, 404, 409, 410, 415, 422), 200: _SEEN},
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
    wish = parse_as(JobEditRequest, body.members)

    def work() -> Response:
        job = edit_job(services, caller, job_id, wish)
        services.room.doubt(job_id)
        return job_response(request, job, services.outlooks.of(job))

    return await to_thread.run_sync(work)


@router.post(
    "/{job_id}/retry",
    status_code=202,
    summary="Try a job again",
    response_description="Accepted: a new job, with `retry_of`.",
    responses={
        **refusals(403, 404, 409, 410, 415, 422),
        202: {"model": Job, "headers": _MADE},
        200: {"model": Job, "headers": _MADE, "description": "The repetition of a request whose job is finished."},
    },
    openapi_extra={"requestBody": {"required": False, "content": {_JSON: {"schema": _RETRY_BODY}}}},
    dependencies=[accepts_query()],
)
async def retry(
    request: Request, services: ServicesDep, caller: Writer, job_id: str, idempotency_key: IdempotencyKey = None
) -> Response:
    """A new job with the request of one that failed or was canceled, and with `overrides` in place of its fields.

    An override replaces its field as a whole, null is back to the default. The images stay, as they were prepared for
    the first job, and so does the seed that it was told; `"seed": null` draws another. Tags, metadata, external id,
    webhook and priority (as far as the key may use it) are carried over. `Idempotency-Key` works as at a submit.
    """
    key = check_keys(request.headers.getlist("idempotency-key"))
    return _answer(request, services, await take_retry(request, services, caller, job_id, key))


@router.delete(
    "/{job_id}",
    status_code=204,
    summary="Erase a job",
    response_description="Erased, now or before.",
    responses=refusals(404),
    dependencies=[accepts_query(), Depends(refuse_body)],
)
async def erase(services: ServicesDep, caller: Writer, job_id: str) -> Response:
    """Cancels it if need be and erases inputs, results and prompt; what another job uses too stays with that one.

    From then on whatever is asked of it answers 410 `gone`, and lists leave it out; only a repeated DELETE answers
    204 again.
    """
    await to_thread.run_sync(erase_job, services, caller, job_id)
    services.room.doubt(job_id)
    return Response(status_code=204)


def _answer(
    request: Request, services: Services, outcome: Submitted | Preview, applied: Mapping[str, str] | None = None
) -> Response:
    """`applied`: headers that tell of a preference that was followed."""
    if isinstance(outcome, Preview):
        return JSONResponse(_present_preview(outcome))
    headers = {"Location": job_url(base_url(request), outcome.job.id), **(applied or {})}
    if outcome.replayed:
        headers["Idempotent-Replayed"] = "true"
    is_over = outcome.job.state.is_terminal and (outcome.replayed or bool(applied))
    return job_response(request, outcome.job, services.outlooks.peek(outcome.job), 200 if is_over else 202, headers)


def _present_preview(preview: Preview) -> dict[str, Any]:
    plan, outlook = preview.plan, preview.outlook
    run_seconds = plan.cost if outlook.run_seconds is None else outlook.run_seconds
    return {
        "feasible": True,
        "effective_params": plan.params.as_dict(),
        "warnings": list(plan.warnings),
        "estimate": {
            "queue_seconds": None if outlook.start_seconds is None else round(outlook.start_seconds, 1),
            "run_seconds": round(run_seconds, 3),
        },
    }
