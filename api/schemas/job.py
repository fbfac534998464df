"""A job as clients see it; `api.presenters` builds it, and the tests hold the two together."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict


class Answer(BaseModel):
    """An object of an answer."""

    model_config = ConfigDict(extra="forbid")


class Queue(Answer):
    """Where a queued job stands, by a look that is at most a second old; null where it is not known, and in lists.

    `position` counts the jobs before it, or with `is_lower_bound` at least so many.
    """

    position: int | None
    is_lower_bound: bool
    eta_seconds: float | None


class Progress(Answer):
    """`step` of `steps` over all images of the job; null where it is not known."""

    value: float | None
    step: int | None
    steps: int | None
    eta_seconds: float | None


class JobWarning(Answer):
    """Something that was done otherwise than asked."""

    code: str
    pointer: str
    detail: str | None = None


class File(Answer):
    """One picture. `url` answers until `url_expires_at`; `sha256` is of the bytes it answers."""

    width: int
    height: int
    content_type: str
    bytes: int
    sha256: str
    url: str
    url_expires_at: str | None


class Image(File):
    """One result, of this step of a chain (from 0)."""

    index: int
    step: int
    seed: int


class JobUrls(Answer):
    """Where to go from here."""

    self: str
    events: str
    cancel: str
    retry: str
    preview: str


class Job(Answer):
    """A job at one version."""

    id: str
    status: Literal["queued", "running", "succeeded", "failed", "canceled"]
    version: int
    stage: str | None
    attempt: int
    task: Literal["txt2img", "img2img", "inpaint"]
    model: str
    priority: Literal["high", "normal", "low"]
    created_at: str
    started_at: str | None
    finished_at: str | None
    deadline_at: str
    expires_at: str | None
    cancel_requested: bool
    queue: Queue
    progress: Progress
    params: dict[str, Any]
    effective_steps: int
    warnings: list[JobWarning]
    images: list[Image]
    grid: File | None
    error: dict[str, Any] | None
    metrics: dict[str, Any]
    device: str | None
    retry_of: str | None
    batch: str | None
    external_id: str | None
    tags: list[str]
    metadata: dict[str, str]
    urls: JobUrls


class JobPage(Answer):
    """One page of jobs, newest first; `next` is the next page's `after`."""

    data: list[Job]
    has_more: bool
    next: str | None


class Estimate(Answer):
    """Seconds until a job of this priority, submitted now, would start, null without workers; and on the device."""

    queue_seconds: float | None
    run_seconds: float


class DryRun(Answer):
    """What a submit would do."""

    feasible: Literal[True]
    effective_params: dict[str, Any]
    warnings: list[JobWarning]
    estimate: Estimate
