"""What the routes share: JSON out, conditional requests, and how answers are documented."""

from typing import Annotated, Any, Final

from fastapi import Header, Request, Response
from fastapi.responses import JSONResponse
from pydantic import BaseModel

from api.dependencies import base_url
from api.schemas.problem import ProblemDocument
from common.clock import utc_now
from common.domain.outlook import Outlook, poll_seconds
from common.domain.snapshot import JobSnapshot
from common.job_document import job_etag, present_job

Documented = dict[int | str, dict[str, Any]]

IfNoneMatch = Annotated[
    str | None, Header(description="An `ETag` of before: 304 without a body while it still stands.")
]
_RETRY_AFTER: Final = {"description": "Seconds to wait before asking again.", "schema": {"type": "integer"}}
ETAG: Final[dict[str, Any]] = {
    "ETag": {"description": "Names this very state, for `If-None-Match`.", "schema": {"type": "string"}}
}
JOB_HEADERS: Final[dict[str, Any]] = ETAG | {
    "Retry-After": {**_RETRY_AFTER, "description": "Seconds to the next poll; absent once the job is over."}
}
LOCATION: Final[dict[str, Any]] = {
    "Location": {"description": "Where it is from now on.", "schema": {"type": "string", "format": "uri"}}
}

_PROBLEM: Final = {"model": ProblemDocument, "description": "Refused; see `code`, `detail` and `errors`."}
PROBLEMS: Final[Documented] = {
    "4XX": _PROBLEM,
    "503": {
        **_PROBLEM,
        "description": "Come back after `Retry-After`.",
        "headers": {"Retry-After": _RETRY_AFTER},
    },
}

_REFUSALS: Final = {
    403: "The key lacks the scope, or may not use this priority.",
    404: "There is no such thing (of this tenant).",
    409: "`not_editable`: its state does not allow it; `idempotency_in_flight`: ask again.",
    410: "`gone`: the job has been erased.",
    415: "The body is not JSON.",
    422: "A field is wrong; see `errors`.",
}


def refusals(*statuses: int) -> Documented:
    """How a route documents the refusals that its client should know of one by one."""
    return {status: {"model": ProblemDocument, "description": _REFUSALS[status]} for status in statuses}


def takes_json(model: type[BaseModel], *, required: bool = True, example: Any = None) -> dict[str, Any]:
    """How a route documents the JSON body that it reads by hand."""
    content = {"schema": model.model_json_schema()} | ({} if example is None else {"example": example})
    return {"requestBody": {"required": required, "content": {"application/json": content}}}


def job_response(
    request: Request, job: JobSnapshot, outlook: Outlook, status: int = 200, headers: dict[str, str] | None = None
) -> Response:
    """The job and what it may expect, with its `ETag`, and while it is not finished the suggested poll interval."""
    own = {**_job_headers(job, outlook), **(headers or {})}
    return JSONResponse(present_job(job, base_url(request), utc_now(), outlook), status, own)


def job_unless_known(request: Request, job: JobSnapshot, outlook: Outlook) -> Response:
    """As `job_response`, but 304 with the same headers for a client that has this very state of the job."""
    headers = _job_headers(job, outlook)
    if has_match(request, headers["ETag"]):
        return not_modified(headers.pop("ETag"), headers)
    return job_response(request, job, outlook)


def not_modified(etag: str, headers: dict[str, str] | None = None) -> Response:
    """304 with the tag that still stands."""
    return Response(status_code=304, headers={"ETag": etag, **(headers or {})})


def has_match(request: Request, etag: str) -> bool:
    """True when `If-None-Match` names this tag (weak comparison, RFC 9110 section 13.1.2)."""
    given = request.headers.get("if-none-match", "")
    tags = [tag.strip().removeprefix("W/") for tag in given.split(",")]
    return given.strip() == "*" or etag in tags


def _job_headers(job: JobSnapshot, outlook: Outlook) -> dict[str, str]:
    own = {"ETag": job_etag(job, outlook), "Cache-Control": "private, no-cache"}
    if not job.state.is_terminal:
        own["Retry-After"] = str(poll_seconds(job, outlook))
    return own
