"""From an exception to an RFC 9457 problem: one table of statuses, one shape, no stack traces."""

import json
from collections.abc import Sequence
from typing import Any, Final

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from common.domain.errors import DarkroomError, Invalid, Problem, Unavailable, problem_document
from common.images.sandbox import DecoderUnavailable
from common.requests.validation import query_problems
from common.storage.port import StoreUnavailable

STATUS: Final = {
    "invalid_json": 400,
    "invalid_multipart": 400,
    "unauthorized": 401,
    "forbidden": 403,
    "not_found": 404,
    "method_not_allowed": 405,
    "request_timeout": 408,
    "idempotency_in_flight": 409,
    "not_editable": 409,
    "gone": 410,
    "payload_too_large": 413,
    "unsupported_media_type": 415,
    "validation_error": 422,
    "unknown_field": 422,
    "unknown_model": 422,
    "unsupported_param": 422,
    "mask_missing": 422,
    "mask_unnecessary": 422,
    "image_unreadable": 422,
    "image_too_large": 422,
    "url_blocked": 422,
    "idempotency_mismatch": 422,
    "infeasible": 422,
    "rate_limited": 429,
    "quota_exceeded": 429,
    "queue_full": 429,
    "internal": 500,
    "unavailable": 503,
}

_HTTP_TITLES: Final = {
    "invalid_multipart": "The body is not a valid multipart form",
    "method_not_allowed": "This address does not answer that method",
    "quota_exceeded": "The quota is used up",
    "queue_full": "The queue is full",
}
_HTTP_DETAILS: Final = {404: "there is nothing at this address", 405: "the header Allow says which methods it answers"}
_CODE_OF_STATUS: Final = {404: "not_found", 405: "method_not_allowed", 413: "payload_too_large"}


def install_error_handlers(app: FastAPI) -> None:
    """Every refusal leaves as a problem; what is left unhandled is `Envelope`'s."""
    app.add_exception_handler(DarkroomError, _on_darkroom_error)
    app.add_exception_handler(RequestValidationError, _on_validation_error)
    app.add_exception_handler(HTTPException, _on_http_exception)
    app.add_exception_handler(StoreUnavailable, _on_part_unavailable)
    app.add_exception_handler(DecoderUnavailable, _on_part_unavailable)


def problem_response(
    request: Request,
    code: str,
    detail: str,
    *,
    retryable: bool = False,
    problems: Sequence[Problem] = (),
    headers: dict[str, str] | None = None,
) -> Response:
    """The problem as `application/problem+json`, with the status of its code."""
    status = STATUS.get(code, 500)
    document = problem_document(code, detail, retryable=retryable, problems=problems)
    document["title"] = _HTTP_TITLES.get(code, document["title"])
    document |= {"status": status, "instance": request.url.path, "request_id": request.state.request_id}
    return Response(_encode(document), status, headers, media_type="application/problem+json")


def _encode(document: dict[str, Any]) -> bytes:
    # A lone surrogate that a client sent becomes `\ud800`, which is again a valid JSON escape.
    return json.dumps(document, ensure_ascii=False).encode("utf-8", "backslashreplace")


async def _on_darkroom_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, DarkroomError)
    return problem_response(
        request,
        error.code,
        error.detail,
        retryable=error.retryable,
        problems=error.problems,
        headers=_headers_of(error),
    )


async def _on_validation_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    return await _on_darkroom_error(request, Invalid(query_problems(error.errors())))


async def _on_http_exception(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    code = _CODE_OF_STATUS.get(error.status_code, "validation_error" if error.status_code < 500 else "internal")
    detail = _HTTP_DETAILS.get(error.status_code, str(error.detail))
    return problem_response(request, code, detail, headers=dict(error.headers or {}))


async def _on_part_unavailable(request: Request, error: Exception) -> Response:
    part = "object store" if isinstance(error, StoreUnavailable) else "image decoder"
    return await _on_darkroom_error(request, Unavailable(f"the {part} does not answer"))


def _headers_of(error: DarkroomError) -> dict[str, str]:
    if isinstance(error, Unavailable):
        return {"Retry-After": str(error.retry_after_seconds)}
    if error.code == "request_timeout":
        return {"Connection": "close"}  # what is left of the body is not waited for
    if error.code == "unauthorized":
        return {"WWW-Authenticate": "Bearer"}
    if error.code == "forbidden":
        return {"WWW-Authenticate": 'Bearer error="insufficient_scope"'}
    return {}
