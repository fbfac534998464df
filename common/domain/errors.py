"""The error tree of the product.

DarkroomError
├── Refusal                 the request cannot be accepted; the client can mend it
│   ├── Invalid             one or more fields are wrong (422)
│   ├── NotFound            no such thing for this tenant
│   └── Conflict            the thing is not in a state that allows this
├── Denied                  who asks is unknown or may not
├── Unavailable             we cannot right now; try again
└── JobFailure              why an accepted job ended as failed; the same codes stand in `job.error`
"""

from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any


@dataclass(frozen=True, slots=True)
class Problem:
    """One wrong field: a JSON pointer, a stable code, a sentence, and what is allowed instead."""

    pointer: str
    code: str
    detail: str
    allowed: Any = None
    did_you_mean: str | None = None

    def as_dict(self) -> dict[str, Any]:
        """The problem as JSON, without the members that are not set."""
        members = {"pointer": self.pointer, "code": self.code, "detail": self.detail}
        optional = {"allowed": self.allowed, "did_you_mean": self.did_you_mean}
        return members | {name: value for name, value in optional.items() if value is not None}


class DarkroomError(Exception):
    """Base of every error that a client may see. `code` is stable, `detail` is one English sentence."""

    code = "internal"
    retryable = False

    def __init__(self, detail: str, *, code: str | None = None, problems: Sequence[Problem] = ()) -> None:
        super().__init__(detail)
        self.detail = detail
        self.code = code or type(self).code
        self.problems = tuple(problems)


class Refusal(DarkroomError):
    """The request as it stands cannot be accepted."""

    code = "validation_error"


class Invalid(Refusal):
    """One or more fields are wrong. The code is the single problem's own where there is only one."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        code = problems[0].code if len({problem.code for problem in problems}) == 1 else "validation_error"
        super().__init__("; ".join(problem.detail for problem in problems[:3]), code=code, problems=problems)


class NotFound(Refusal):
    """No such thing, or not this tenant's: the two cannot be told apart."""

    code = "not_found"


class Conflict(Refusal):
    """The thing exists, but its state does not allow this."""

    code = "not_editable"


class Denied(DarkroomError):
    """No key, an unknown or revoked one (`unauthorized`), or one without the scope (`forbidden`)."""

    code = "unauthorized"


class Unavailable(DarkroomError):
    """A part that we depend on is away; the same request may succeed in `retry_after_seconds`."""

    code = "unavailable"
    retryable = True

    def __init__(self, detail: str, *, retry_after_seconds: int = 2) -> None:
        super().__init__(detail)
        self.retry_after_seconds = retry_after_seconds


class JobFailure(DarkroomError):
    """An accepted job cannot succeed. Becomes `job.error`; see `common.domain.retry` for who may try again."""

    def as_dict(self) -> dict[str, Any]:
        """The `job.error` object (RFC 9457 members without the request's own)."""
        return problem_document(self.code, self.detail, retryable=self.retryable)


TITLES = {
    "invalid_json": "The body is not valid JSON",
    "unauthorized": "A valid API key is needed",
    "forbidden": "The key does not allow this",
    "not_found": "There is no such thing",
    "request_timeout": "The body came too slowly",
    "idempotency_in_flight": "The first request with this key is still being written",
    "not_editable": "Its state does not allow this",
    "gone": "It has been erased",
    "payload_too_large": "The body is too large",
    "unsupported_media_type": "The content type is not supported",
    "validation_error": "The request has wrong fields",
    "unknown_field": "The request has a field that does not exist",
    "unknown_model": "There is no such model",
    "unsupported_param": "The model does not support this parameter",
    "mask_missing": "Inpainting needs a mask",
    "mask_unnecessary": "The task takes no mask",
    "image_unreadable": "The image cannot be read",
    "image_too_large": "The image is too large",
    "url_blocked": "The address may not be fetched",
    "idempotency_mismatch": "The Idempotency-Key was used with another request",
    "infeasible": "The request can never run",
    "rate_limited": "Too many requests",
    "unavailable": "The service is not available right now",
    "out_of_memory": "The device has too little memory for this job",
    "input_fetch_failed": "The input image could not be fetched",
    "input_missing": "An input image is no longer there",
    "model_unavailable": "The model cannot be loaded",
    "worker_lost": "The worker was lost too often",
    "invalid_output": "The model produced no valid picture",
    "deadline_exceeded": "The deadline passed",
    "store_failed": "The result could not be stored",
    "poisoned": "The job crashes its worker",
    "internal": "Something went wrong on our side",
}


def problem_document(
    code: str, detail: str, *, retryable: bool = False, problems: Sequence[Problem] = ()
) -> dict[str, Any]:
    """The members of an RFC 9457 problem that do not depend on HTTP."""
    return {
        "type": f"urn:darkroom:problem:{code}",
        "title": TITLES.get(code, TITLES["internal"]),
        "detail": detail,
        "code": code,
        "retryable": retryable,
        "errors": [problem.as_dict() for problem in problems],
    }


def nearest(word: str, allowed: Sequence[str]) -> str | None:
    """The allowed word that `word` was most likely meant to be, or None."""
    matches = get_close_matches(word, allowed, n=1, cutoff=0.6)
    return matches[0] if matches else None
