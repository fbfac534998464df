"""The rows of a new job, the same whether it comes alone or with thousands of others."""

from typing import Any, Final

from common.db.documents import ParamsWriter, input_text
from common.domain.job import NewJob
from common.domain.lifecycle import INITIAL

QUEUED_EVENT: Final = "job.queued"
# One object each for all rows: what is the same is written once.
_PAYLOAD: Final = {"state": INITIAL, "move": "submit", "attempt": 0, "error": None}
_NOTHING: Final[dict[str, Any]] = {}


def hot_row(job: NewJob) -> dict[str, Any]:
    """The columns of `jobs` but for its tags, its moments and its hold."""
    return {
        "id": job.id,
        "tenant_id": job.tenant_id,
        "pool": job.pool,
        "lane": job.lane,
        "task": job.params.task,
        "model": job.params.model,
        "state": INITIAL,
        "cost": job.cost,
        "step_key": job.step_key,
        "call_key": job.call_key,
        "frames": job.params.num_images,
        "max_tries": job.max_tries,
        "external_id": job.external_id,
        "retry_of": job.retry_of,
        "batch_id": job.batch_id,
    }


def cold_row(job: NewJob) -> dict[str, Any]:
    """The columns of `job_requests`."""
    return {
        "job_id": job.id,
        "tenant_id": job.tenant_id,
        "request": job.request,
        "params": job.params.as_dict(),
        "inputs": {role: reference.as_dict() for role, reference in job.inputs.items()},
        "warnings": list(job.warnings),
        "tags": list(job.tags),
        "metadata": job.metadata,
        "expires_in_seconds": job.expires_in_seconds,
    }


def bulk_cold_row(job: NewJob, writer: ParamsWriter) -> dict[str, Any]:
    """The same as `common.db.bulk` takes it, its larger documents written already."""
    inputs: Any = _NOTHING
    if len(job.inputs) == 1:
        ((role, reference),) = job.inputs.items()
        inputs = input_text(role, reference)
    elif job.inputs:
        inputs = {role: reference.as_dict() for role, reference in job.inputs.items()}
    return {
        "job_id": job.id,
        "tenant_id": job.tenant_id,
        "request": job.request,
        "params": writer.write(job.params),
        "inputs": inputs,
        "warnings": job.warnings,
        "tags": job.tags,
        "metadata": job.metadata or _NOTHING,
        "expires_in_seconds": job.expires_in_seconds,
    }


def event_row(job: NewJob) -> dict[str, Any]:
    """The columns of the job's first row of `job_events`, but for its moment."""
    return {"job_id": job.id, "tenant_id": job.tenant_id, "version": 1, "kind": QUEUED_EVENT, "payload": _PAYLOAD}
