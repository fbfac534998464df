"""From values to the JSON of the answers. Pure: the base of the URLs and the time are passed in."""

from dataclasses import asdict
from datetime import datetime
from typing import Any

from common.clock import to_rfc3339
from common.db.queue_stats import LaneDepth
from common.domain.catalogue import AdapterCard, ModelCard
from common.domain.job import StoredImage
from common.domain.lifecycle import JobState
from common.domain.params import PassParams
from common.domain.recipe import recipe_of
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
        "effective_steps": job.params.total_steps,
        "warnings": job.warnings,
        "images": [_present_image(job, image, url) for image in job.images],
        "grid": job.grid and _present_grid(job.grid, url, job.expires_at),
        "error": job.error,
        "metrics": job.metrics,
        "device": job.device,
        "retry_of": job.retry_of,
        "batch": job.batch_id,
        "external_id": job.external_id,
        "tags": job.tags,
        "metadata": job.metadata,
        "urls": {"self": url, "cancel": f"{url}/cancel", "retry": f"{url}/retry", "preview": f"{url}/preview"},
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


def present_model(card: ModelCard, resident: int) -> dict[str, Any]:
    """A card of the catalogue; `resident` workers have it in memory."""
    return {
        "id": card.id,
        "title": card.title,
        "tasks": sorted(card.tasks),
        "native_size": card.native_size,
        "licence": card.licence,
        "note": card.note,
        "family": card.family,
        "engine": "step" if card.capability.is_continuous else "pipeline",
        "pool": card.pool,
        "defaults": asdict(card.defaults),
        "schedulers": list(card.capability.schedulers),
        "size_step": card.capability.size_step,
        "adapters": [_present_adapter(one) for one in card.adapters.values()],
        "resident_workers": resident,
    }


def _present_adapter(adapter: AdapterCard) -> dict[str, str]:
    return {"id": adapter.id, "title": adapter.title, "licence": adapter.licence, "note": adapter.note}


def present_lane(lane: LaneDepth) -> dict[str, Any]:
    """One lane of the queue."""
    age = max(0.0, (lane.seen_at - lane.oldest_at).total_seconds())
    members = {"pool": lane.pool, "lane": lane.lane, "queued": lane.queued, "held": lane.held}
    return members | {"oldest_seconds": round(age, 3)}


def _milestones(job: JobSnapshot) -> dict[str, str | None]:
    names = ("created_at", "started_at", "finished_at", "deadline_at", "expires_at")
    return {name: to_rfc3339(getattr(job, name)) for name in names}


def _present_params(job: JobSnapshot) -> dict[str, Any]:
    """What will run, in the words of a request, and the effective size and steps of each pass."""
    recipe = recipe_of(job.params, 0)
    members = {name: value for name, value in recipe.items() if name not in {"task", "model"}}
    return members | {
        "num_images": job.params.num_images,
        "passes": [_present_pass(one) for one in job.params.passes],
    }


def _present_pass(one: PassParams) -> dict[str, Any]:
    names = ("task", "model", "width", "height", "scheduled_steps", "effective_steps")
    return {name: getattr(one, name) for name in names}


def _present_progress(job: JobSnapshot, now: datetime) -> dict[str, Any]:
    steps = job.params.total_steps * job.params.num_images
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


def _present_image(job: JobSnapshot, image: StoredImage, url: str) -> dict[str, Any]:
    """`step` is the step of the chain that made it, the last one where only the last is kept."""
    steps = sum(not one.refines for one in job.params.passes)
    kept = image.index // job.params.num_images
    place = {"index": image.index, "step": kept if job.params.keep == "all" else steps - 1, "seed": image.seed}
    address = {"url": f"{url}/images/{image.index}", "url_expires_at": to_rfc3339(job.expires_at)}
    return place | _present_file(image) | address


def _present_grid(grid: StoredImage, url: str, expires_at: datetime | None) -> dict[str, Any]:
    return _present_file(grid) | {"url": f"{url}/grid", "url_expires_at": to_rfc3339(expires_at)}


def _present_file(image: StoredImage) -> dict[str, Any]:
    names = ("width", "height", "content_type", "bytes", "sha256")
    return {name: getattr(image, name) for name in names}
