"""What watching a job compares: the marks by which a change shows, and the transitions that a job has made. Pure."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from common.domain.lifecycle import JobState
from common.domain.snapshot import JobSnapshot


@dataclass(frozen=True, slots=True)
class Mark:
    """What a job's newest look is known by. Two looks with equal marks saw the same job.

    Within a version nothing here goes back but by an erasure, which is for ever, so that of two looks at one version
    the newer one can be told. `is_free`: no hold keeps it from being claimed.
    """

    version: int
    progress_seq: int
    preview_seq: int
    cancel_requested: bool
    is_free: bool
    is_erased: bool

    def is_older_than(self, other: "Mark") -> bool:
        """True when whoever saw this looked before who saw the other."""
        if self.version != other.version:
            return self.version < other.version
        if self.is_erased != other.is_erased:
            return other.is_erased
        return any(mine < theirs for mine, theirs in zip(self._counters(), other._counters(), strict=True))

    def _counters(self) -> tuple[int, ...]:
        return self.progress_seq, self.preview_seq, self.cancel_requested, self.is_free


@dataclass(frozen=True, slots=True)
class JobEvent:
    """One transition: the job's `version` and `state` after it, and when it was written (UTC)."""

    job_id: str
    version: int
    kind: str
    state: JobState
    attempt: int
    error: dict[str, Any] | None
    at: datetime


def mark_of(job: JobSnapshot) -> Mark:
    """The mark of the look that saw this."""
    return Mark(
        version=job.version,
        progress_seq=job.progress_seq,
        preview_seq=preview_number(job.preview_tag),
        cancel_requested=job.cancel_requested,
        is_free=job.held is None,
        is_erased=job.erased_at is not None,
    )


def preview_number(tag: str | None) -> int:
    """The number in a preview's tag `"<fence>.<number>"`, 0 for none."""
    return int(tag.strip('"').rpartition(".")[2]) if tag else 0
