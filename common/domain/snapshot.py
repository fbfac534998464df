"""A job as clients may see it, at one version: what poll, stream and webhook are all made of."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from common.domain.job import Progress, StoredImage
from common.domain.lifecycle import JobState
from common.domain.params import EditParams


@dataclass(frozen=True, slots=True)
class JobSnapshot:
    """Everything about a job that is not an address; moments are UTC, durations milliseconds.

    `joined_at`: when the newest attempt reached a device. `progress_seq` grows with the reports of an attempt, 0 before
    the first and when the job is not running; `preview_tag` names the newest preview, None where there is none.
    """

    id: str
    tenant_id: str
    pool: str
    state: JobState
    held: str | None
    version: int
    attempt: int
    lane: str
    vtime: float
    cost: float
    device: str | None
    created_at: datetime
    started_at: datetime | None
    joined_at: datetime | None
    finished_at: datetime | None
    deadline_at: datetime
    expires_at: datetime | None
    erased_at: datetime | None
    cancel_requested: bool
    params: EditParams
    warnings: list[dict[str, str]]
    error: dict[str, Any] | None
    metrics: dict[str, Any]
    images: list[StoredImage]
    grid: StoredImage | None
    progress: Progress | None
    progress_seq: int
    preview_tag: str | None
    batch_id: str | None
    retry_of: str | None
    external_id: str | None
    tags: list[str]
    metadata: dict[str, str]
