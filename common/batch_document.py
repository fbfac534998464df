"""A batch as JSON: what an answer, a stream and a webhook are all made of. Pure: base of URLs and outlook come in."""

from dataclasses import asdict
from typing import Any, Final

from common.clock import to_rfc3339
from common.domain.batch import BatchOutlook, BatchSnapshot, BatchState

UNKNOWN: Final = BatchOutlook()

_LONGEST_POLL_SECONDS: Final = 30
_POLLS_OF_A_WAIT: Final = 3
_POLL_SECONDS: Final = 5


def present_batch(batch: BatchSnapshot, base: str, outlook: BatchOutlook = UNKNOWN) -> dict[str, Any]:
    """The Batch object. `base` is the address of the API without the final slash."""
    url = batch_url(base, batch.id)
    return {
        "id": batch.id,
        "name": batch.name,
        "status": batch.state,
        "version": batch.version,
        "priority": batch.lane,
        "created_at": to_rfc3339(batch.created_at),
        "started_at": to_rfc3339(batch.started_at),
        "finished_at": to_rfc3339(batch.finished_at),
        "cancel_requested": batch.cancel_requested,
        "lines": {"total": batch.total, "validated": batch.validated, "inserted": batch.inserted},
        "counts": asdict(batch.counts),
        "queue": {"position": outlook.position, "is_lower_bound": outlook.is_lower_bound},
        "eta_seconds": None if outlook.eta_seconds is None else round(outlook.eta_seconds, 1),
        "on_invalid": batch.on_invalid,
        "errors": batch.errors,
        "error_count": batch.error_count,
        "retry_of": batch.retry_of,
        "metadata": batch.metadata,
        "urls": {
            "self": url,
            "events": f"{url}/events",
            "jobs": f"{url}/jobs",
            "results": f"{url}/results",
            "archive": f"{url}/archive",
            "cancel": f"{url}/cancel",
            "pause": f"{url}/pause",
            "resume": f"{url}/resume",
            "retry": f"{url}/retry",
        },
    }


def batch_url(base: str, batch_id: str) -> str:
    """The address of a batch."""
    return f"{base}/v1/batches/{batch_id}"


def batch_etag(batch: BatchSnapshot, outlook: BatchOutlook) -> str:
    """Changes whenever the answer does: version, wish to cancel, lines, counts, and position.

    Seconds to wait alone change nothing.
    """
    parts = [str(batch.version), *(["c"] if batch.cancel_requested else [])]
    parts += [f"{batch.validated}-{batch.inserted}", *(str(number) for number in asdict(batch.counts).values())]
    if outlook.position is not None:
        parts.append(f"q{outlook.position}{'+' if outlook.is_lower_bound else ''}")
    return f'"{".".join(parts)}"'


def poll_seconds(batch: BatchSnapshot, outlook: BatchOutlook) -> int:
    """When to look again, 1 to 30: soon at a batch that is about to change, else after a third of what is to come."""
    if batch.state is BatchState.VALIDATING or batch.cancel_requested:
        return 1
    if outlook.eta_seconds is None:
        return _POLL_SECONDS
    return max(1, min(_LONGEST_POLL_SECONDS, int(outlook.eta_seconds / _POLLS_OF_A_WAIT)))
