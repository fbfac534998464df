"""From values to the JSON of the answers. Pure: the base of the URLs and the time are passed in."""

from datetime import datetime
from typing import Any

from common.clock import to_rfc3339
from common.db.queue_stats import LaneDepth
from common.domain.catalogue import ModelCard
from common.domain.job import StoredImage
from common.domain.lifecycle import JobState
from common.domain.snapshot import JobSnapshot


def present_job(job: JobSnapshot, base: str, now: datetime) -> dict[str, Any]:
    """The Job object. `base` is the address of the API without the final slash."""
    url = job_url(base, job.id)
    return {
        "id": job.id,
        "status": job.state,
        "version": job.version,
        "stage": job.progress.stage if job.progress else None,
        "attempt": job.attempt,
        "task": job.params.task,
        "model": job.params.model,
        "priority": job.lane,
        **_milestones(job),
        "cancel_requested": job.cancel_requested,
        "queue": {"position": None, "eta_seconds": None},
        "progress": _present_progress(job, now),
        "params": _present_params(job),
        "effective_steps": job.params.effective_steps,
        "warnings": job.warnings,
        "images": [_present_image(image, url, job.expires_at) for image in job.images],
        "grid": None,
        "error": job.error,
        "metrics": job.metrics,
        "device": job.device,
        "retry_of": job.retry_of,
        "batch": job.batch_id,
        "external_id": job.external_id,
        "tags": job.tags,
        "metadata": job.metadata,
        "urls": {"self": url, "cancel": f"{url}/cancel"},
    }


def job_url(base: str, job_id: str) -> str:
    """The address of a job."""
    return f"{base}/v1/jobs/{job_id}"


def job_etag(job: JobSnapshot) -> str:
    """Changes whenever the answer does: version, wish to cancel and, while running, progress."""
    parts = [str(job.version), *(["c"] if job.cancel_requested else [])]
    if job.progress:
        parts += [job.progress.stage, str(job.progress.step)]
    return f'"{".".join(parts)}"'


def present_model(card: ModelCard) -> dict[str, Any]:
    """A card of the catalogue."""
    return {
        "id": card.id,
        "title": card.title,
        "tasks": sorted(card.tasks),
        "native_size": card.native_size,
        "licence": card.licence,
        "note": card.note,
    }


def present_lane(lane: LaneDepth) -> dict[str, Any]:
    """One lane of the queue."""
    age = max(0.0, (lane.seen_at - lane.oldest_at).total_seconds())
    members = {"pool": lane.pool, "lane": lane.lane, "queued": lane.queued, "held": lane.held}
    return members | {"oldest_seconds": round(age, 3)}


def _milestones(job: JobSnapshot) -> dict[str, str | None]:
    names = ("created_at", "started_at", "finished_at", "deadline_at", "expires_at")
    return {name: to_rfc3339(getattr(job, name)) for name in names}


def _present_params(job: JobSnapshot) -> dict[str, Any]:
    apart = {"task", "model", "effective_steps"}
    return {name: value for name, value in job.params.as_dict().items() if name not in apart}


def _present_progress(job: JobSnapshot, now: datetime) -> dict[str, Any]:
    steps = job.params.effective_steps * job.params.num_images
    if job.state is JobState.SUCCEEDED:
        return {"value": 1.0, "step": steps, "steps": steps, "eta_seconds": 0.0}
    if job.state.is_terminal:
        return {"value": None, "step": None, "steps": steps, "eta_seconds": None}
    if job.progress is None or not job.progress.steps:
        return {"value": 0.0, "step": 0, "steps": steps, "eta_seconds": None}
    done, total = job.progress.step, job.progress.steps
    return {"value": round(done / total, 4), "step": done, "steps": total, "eta_seconds": _eta_seconds(job, now)}


def _eta_seconds(job: JobSnapshot, now: datetime) -> float | None:
    """What is left at the pace so far. Only the first attempt's start is known, so a later one has none."""
    if job.progress is None or job.progress.step < 1 or job.started_at is None or job.attempt != 1:
        return None
    elapsed = max(0.0, (now - job.started_at).total_seconds())
    return round(elapsed / job.progress.step * (job.progress.steps - job.progress.step), 1)


def _present_image(image: StoredImage, url: str, expires_at: datetime | None) -> dict[str, Any]:
    names = ("index", "seed", "width", "height", "content_type", "bytes", "sha256")
    members = {name: getattr(image, name) for name in names}
    return members | {"url": f"{url}/images/{image.index}", "url_expires_at": to_rfc3339(expires_at)}
