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

_JSON: Final = "application/json"
_FORM: Final = "multipart/form-data"


@dataclass(frozen=True, slots=True)
class Body:
    """The members of a request as JSON values, and its files by field name."""

    members: Mapping[str, Any]
    files: Mapping[str, bytes] = field(default_factory=dict)

    def fingerprint(self, method: str, path: str) -> str:
        """Equal for equal requests: SHA-256 over method, path, canonical JSON and the SHA-256 of each file."""
        canonical = json.dumps(self.members, sort_keys=True, separators=(",", ":"))
        files = [(name, hashlib.sha256(data).hexdigest()) for name, data in sorted(self.files.items())]
        return hashlib.sha256(repr((method, path, canonical, files)).encode()).hexdigest()


async def read_json_body(request: Request, *, may_be_empty: bool = False) -> Body:
    """The body of a request that is no form. Raises as `read_body` does."""
    if may_be_empty and not await request.body():
        return Body({})
    return await _read(request, (_JSON,))


async def read_body(request: Request) -> Body:
    """The body of a request. Raises `Refusal`: wrong content type, malformed JSON or form, too large."""
    return await _read(request, (_JSON, _FORM))


async def _read(request: Request, allowed: Sequence[str]) -> Body:
    if len(request.headers.getlist("content-type")) > 1 or "content-encoding" in request.headers:
        detail = "a body has one Content-Type and no Content-Encoding"
        raise Refusal(detail, code="unsupported_media_type")
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type not in allowed:
        detail = f"the content type must be {' or '.join(allowed)}, not {media_type[:80] or 'missing'}"
        raise Refusal(detail, code="unsupported_media_type")
    if media_type == _JSON:
        # Not `request.body()`, which keeps the bytes for as long as there is the request.
        data = b"".join([chunk async for chunk in request.stream()])
        return Body(await run_in_threadpool(parse_json, data))
    return Body(*await read_form(request))
