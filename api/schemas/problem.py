"""Errors as RFC 9457 problems; `api.errors` builds them."""

from typing import Any

from pydantic import BaseModel


class FieldProblem(BaseModel):
    """One wrong field. `pointer` is a JSON pointer into the body, or starts with `/query/` or `/header/`."""

    pointer: str
    code: str
    detail: str
    allowed: Any = None
    did_you_mean: str | None = None


class ProblemDocument(BaseModel):
    """Why the request was refused. `code` is stable; the same request may succeed later when `retryable`."""

    type: str
    title: str
    status: int
    detail: str
    instance: str
    code: str
    request_id: str
    retryable: bool
    errors: list[FieldProblem]
