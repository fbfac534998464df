"""From the bytes of a request to its members and files, whether they came as JSON or as a multipart form."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from fastapi import Request
from starlette.concurrency import run_in_threadpool

from api.forms import read_form
from common.domain.errors import Refusal
from common.requests.json_text import parse_json

JSON: Final = "application/json"
FORM: Final = "multipart/form-data"


@dataclass(frozen=True, slots=True)
class Body:
    """The members of a request as JSON values, and its files by field name."""

    members: Mapping[str, Any]
    files: Mapping[str, bytes] = field(default_factory=dict)

    def fingerprint(self, method: str, path: str) -> str:
        """Equal for equal requests: SHA-256 over method, path, canonical JSON and the SHA-256 of each file."""
        digests = {name: hashlib.sha256(data).hexdigest() for name, data in self.files.items()}
        return fingerprint_of(method, path, self.members, digests)


def fingerprint_of(method: str, path: str, members: Mapping[str, Any], digests: Mapping[str, str]) -> str:
    """Equal for equal requests; `digests`: the SHA-256 of each file by its name. Raises `Refusal` (`invalid_json`)."""
    try:
        canonical = json.dumps(members, sort_keys=True, separators=(",", ":"))
    except RecursionError:  # a member that is free may be as deep as what was read just so
        raise Refusal("the body is not acceptable JSON: it is nested too deeply", code="invalid_json") from None
    return hashlib.sha256(repr((method, path, canonical, sorted(digests.items()))).encode()).hexdigest()


async def read_json_body(request: Request, *, may_be_empty: bool = False) -> Body:
    """The body of a request that is no form. Raises as `read_body` does."""
    if may_be_empty and not await request.body():
        return Body({})
    return await _read(request, (JSON,))


async def read_body(request: Request) -> Body:
    """The body of a request. Raises `Refusal`: wrong content type, malformed JSON or form, too large."""
    return await _read(request, (JSON, FORM))


def media_type_of(request: Request, allowed: Sequence[str]) -> str:
    """Which of the `allowed` types the body has. Raises `Refusal` (`unsupported_media_type`)."""
    if len(request.headers.getlist("content-type")) > 1 or "content-encoding" in request.headers:
        detail = "a body has one Content-Type and no Content-Encoding"
        raise Refusal(detail, code="unsupported_media_type")
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type not in allowed:
        detail = f"the content type must be {' or '.join(allowed)}, not {media_type[:80] or 'missing'}"
        raise Refusal(detail, code="unsupported_media_type")
    return media_type


async def _read(request: Request, allowed: Sequence[str]) -> Body:
    if media_type_of(request, allowed) == JSON:
        # Not `request.body()`, which keeps the bytes for as long as there is the request.
        data = b"".join([chunk async for chunk in request.stream()])
        return Body(await run_in_threadpool(parse_json, data))
    return Body(*await read_form(request))
