"""A job as JSON: what an answer, a stream and a webhook are all made of. Pure: URLs' base, time and outlook come in."""

from datetime import datetime
from typing import Any

from common.clock import to_rfc3339
from common.domain.job import StoredImage
from common.domain.lifecycle import JobState
from common.domain.outlook import UNKNOWN, Outlook
from common.domain.params import PassParams
from common.domain.recipe import recipe_of
from common.domain.snapshot import JobSnapshot

__all__ = [
    "UNKNOWN",
    "Outlook",
    "job_etag",
    "job_url",
    "present_image",
    "present_job",
    "present_progress",
    "present_queue",
    "present_result",
]


def present_job(job: JobSnapshot, base: str, now: datetime, outlook: Outlook = UNKNOWN) -> dict[str, Any]:
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
        "queue": present_queue(job, outlook),
        "progress": present_progress(job, now, outlook),
        "params": _present_params(job),
        "effective_steps": job.params.total_steps,
        "warnings": job.warnings,
        "images": [present_image(job, image, url) for image in job.images],
        "grid": job.grid and _present_grid(job.grid, url, job.expires_at),
        "error": job.error,
        "metrics": job.metrics,
        "device": job.device,
        "retry_of": job.retry_of,
        "batch": job.batch_id,
        "external_id": job.external_id,
        "tags": job.tags,
        "metadata": job.metadata,
        "urls": {
            "self": url,
            "events": f"{url}/events",
            "cancel": f"{url}/cancel",
            "retry": f"{url}/retry",
            "preview": f"{url}/preview",
        },
    }


def job_url(base: str, job_id: str) -> str:
    """The address of a job."""
    return f"{base}/v1/jobs/{job_id}"


def job_etag(job: JobSnapshot, outlook: Outlook) -> str:
    """Changes whenever the answer does: version, wish to cancel, progress while running, position while queued, and
    results that have expired.

    Seconds to wait alone change nothing.
    """
    parts = [str(job.version), *(["c"] if job.cancel_requested else [])]
    if job.progress:
        parts += [job.progress.stage, str(job.progress.step)]
    if job.state is JobState.QUEUED and outlook.position is not None:
        parts.append(f"q{outlook.position}{'+' if outlook.is_lower_bound else ''}")
    if job.state is JobState.SUCCEEDED and not job.images:
        parts.append("x")
    return f'"{".".join(parts)}"'


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


def present_queue(job: JobSnapshot, outlook: Outlook) -> dict[str, Any]:
    """Where a queued job stands; nulls for one that is not, or may not be claimed yet."""
    if job.state is not JobState.QUEUED:
        outlook = UNKNOWN
    return {
        "position": outlook.position,
        "is_lower_bound": outlook.is_lower_bound,
        "eta_seconds": _rounded(outlook.start_seconds),
    }


def present_progress(job: JobSnapshot, now: datetime, outlook: Outlook) -> dict[str, Any]:
    """How far the job is, always in full; `eta_seconds` until it is done, waiting included."""
    steps = job.params.total_steps * job.params.num_images
    if job.state is JobState.SUCCEEDED:
        return {"value": 1.0, "step": steps, "steps": steps, "eta_seconds": 0.0}
    if job.state.is_terminal:
        return {"value": None, "step": None, "steps": steps, "eta_seconds": None}
    if job.progress is None or not job.progress.steps:
        return {"value": 0.0, "step": 0, "steps": steps, "eta_seconds": _rounded(_whole_wait(outlook))}
    done, total = job.progress.step, job.progress.steps
    return {
        "value": round(done / total, 4),
        "step": done,
        "steps": total,
        "eta_seconds": _eta_seconds(job, now, outlook),
    }


def _eta_seconds(job: JobSnapshot, now: datetime, outlook: Outlook) -> float | None:
    """What is left at the pace so far of this attempt, before its first step by measured runs."""
    if job.progress is None or job.progress.step < 1 or job.joined_at is None:
        return _rounded(_whole_wait(outlook))
    elapsed = max(0.0, (now - job.joined_at).total_seconds())
    return _rounded(elapsed / job.progress.step * (job.progress.steps - job.progress.step))


def _whole_wait(outlook: Outlook) -> float | None:
    return None if outlook.run_seconds is None else (outlook.start_seconds or 0.0) + outlook.run_seconds


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 1)


def present_image(job: JobSnapshot, image: StoredImage, url: str) -> dict[str, Any]:
    """One result; `url` is the job's.

    `step` is the step of the chain that made it, the last one where only the last is kept.
    """
    steps = sum(not one.refines for one in job.params.passes)
    kept = image.index // job.params.num_images
    return present_result(image, url, kept if job.params.keep == "all" else steps - 1, job.expires_at)


def present_result(image: StoredImage, url: str, step: int, expires_at: datetime | None) -> dict[str, Any]:
    """One result of the job at `url`, made by this step of its chain."""
    place = {"index": image.index, "step": step, "seed": image.seed}
    address = {"url": f"{url}/images/{image.index}", "url_expires_at": to_rfc3339(expires_at)}
    return place | _present_file(image) | address


def _present_grid(grid: StoredImage, url: str, expires_at: datetime | None) -> dict[str, Any]:
    return _present_file(grid) | {"url": f"{url}/grid", "url_expires_at": to_rfc3339(expires_at)}


def _present_file(image: StoredImage) -> dict[str, Any]:
    names = ("width", "height", "content_type", "bytes", "sha256")
    return {name: getattr(image, name) for name in names}
