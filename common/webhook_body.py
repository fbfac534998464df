"""What a webhook says: the Job without its words, or the Batch, as it was when the event came about. Pure."""

import json
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from typing import Any, Final

from common.clock import to_rfc3339
from common.domain.job import Progress
from common.domain.lifecycle import JobState
from common.domain.snapshot import JobSnapshot
from common.domain.webhook_events import STARTED_EVENT
from common.job_document import present_job
from common.settings import Settings

MAX_BYTES: Final = 20_000
"""A body is shorter than this."""

LEFT_OUT: Final = frozenset({"params", "warnings"})
"""Members of the Job that may quote the request: prompts are nowhere."""

_MAX_DETAIL: Final = 300
# A job at its first join, as a picture of it: nothing here moves one.
_AS_STARTED: Final[dict[str, Any]] = {
    "state": JobState.RUNNING,
    "held": None,
    "attempt": 1,
    "progress": Progress("denoising", 0, 0),
    "finished_at": None,
    "expires_at": None,
    "cancel_requested": False,
    "error": None,
    "metrics": {},
    "images": [],
    "grid": None,
}


def base_url(settings: Settings) -> str:
    """The address of the API that URLs begin with, without the final slash."""
    return (settings.public_url or f"http://{settings.host}:{settings.port}").rstrip("/")


def job_data(kind: str, version: int, created_at: datetime, job: JobSnapshot, base: str, device: str | None) -> Any:
    """The `data` of a job's event: the Job object without `params` and `warnings`, at this version.

    Of `job.started`, told of a job that has gone on since, everything is as it was then, on this device; what has
    ended stays as it was at its end.
    """
    if kind == STARTED_EVENT:
        job = replace(job, **_AS_STARTED, version=version, device=device)
    document = present_job(job, base, created_at)
    return {name: value for name, value in document.items() if name not in LEFT_OUT}


def body_text(kind: str, created_at: datetime, data: dict[str, Any]) -> str:
    """The body as it is sent, shorter than `MAX_BYTES` in UTF-8.

    Where it would be longer, images, errors of lines, metadata, tags and the details of the error are left out one
    after the other until it fits, and `data.truncated` names what was.
    """
    truncated: list[str] = []
    for name, shorten in _SHORTENINGS:
        text = _text(kind, created_at, data)
        if len(text.encode()) < MAX_BYTES:
            return text
        if name in data:
            truncated += [name] if name not in truncated else []
            data = data | {name: shorten(data[name]), "truncated": list(truncated)}
    return _text(kind, created_at, data)


def _text(kind: str, created_at: datetime, data: dict[str, Any]) -> str:
    document = {"type": kind, "timestamp": to_rfc3339(created_at), "data": data}
    return json.dumps(document, ensure_ascii=False, separators=(",", ":"), allow_nan=False)


def _short_error(error: Any) -> Any:
    if not error:
        return error
    return error | {"detail": str(error.get("detail", ""))[:_MAX_DETAIL], "errors": []}


_SHORTENINGS: Final[tuple[tuple[str, Callable[[Any], Any]], ...]] = (
    ("images", lambda _: []),
    ("errors", lambda errors: errors[:30]),
    ("errors", lambda errors: errors[:10]),
    ("errors", lambda _: []),
    ("metadata", lambda _: {}),
    ("tags", lambda _: []),
    ("error", _short_error),
)
