"""A batch: many jobs handed in at once. Its states, its counts, and what a client may see of it."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any, Final, Literal

from common.domain.lifecycle import JobState

MOST_LINES: Final = 100_000
MOST_ITEMS: Final = 1000
MOST_MANIFEST_BYTES: Final = 200 << 20
MOST_CUSTOM_ID: Final = 255
MOST_ERRORS: Final = 100
"""So many line errors are kept and told."""
CHUNK: Final = 5000
"""Lines or jobs of one transaction."""

OnInvalid = Literal["reject", "skip"]


class BatchState(StrEnum):
    """Where a batch is: validating → running ⇄ paused → completed | canceled, or validating → rejected.

    A wish to cancel is a column; the batch is `canceled` once none of its jobs can change any more.
    """

    VALIDATING = "validating"
    RUNNING = "running"
    PAUSED = "paused"
    COMPLETED = "completed"
    CANCELED = "canceled"
    REJECTED = "rejected"

    @property
    def is_terminal(self) -> bool:
        """True for the three states that a batch never leaves."""
        return self in _TERMINAL


_TERMINAL: Final = frozenset({BatchState.COMPLETED, BatchState.CANCELED, BatchState.REJECTED})


@dataclass(frozen=True, slots=True)
class BatchCounts:
    """How many lines are where; `total` is the sum of the others. `queued` has the held ones and those whose job does
    not stand yet, `failed` the wrong lines that were skipped.
    """

    total: int
    queued: int
    running: int
    succeeded: int
    failed: int
    canceled: int


def counts_of(state: BatchState, total: int, jobs: Mapping[JobState, int], wrong: int) -> BatchCounts:
    """The counts by the jobs in each state and the wrong lines that were skipped.

    The other lines, which have no job, are still to be queued; of a canceled batch they are canceled, of a rejected one
    failed.
    """
    rest = total - sum(jobs.values()) - wrong
    return BatchCounts(
        total=total,
        queued=jobs.get(JobState.QUEUED, 0) + (0 if state.is_terminal else rest),
        running=jobs.get(JobState.RUNNING, 0),
        succeeded=jobs.get(JobState.SUCCEEDED, 0),
        failed=jobs.get(JobState.FAILED, 0) + wrong + (rest if state is BatchState.REJECTED else 0),
        canceled=jobs.get(JobState.CANCELED, 0) + (rest if state is BatchState.CANCELED else 0),
    )


@dataclass(frozen=True, slots=True)
class BatchOutlook:
    """What a batch may expect, as far as it is known.

    `position`: claimable jobs of the pool before its first waiting one, or with `is_lower_bound` at least so many;
    `eta_seconds` until its last job is done.
    """

    position: int | None = None
    is_lower_bound: bool = False
    eta_seconds: float | None = None


@dataclass(frozen=True, slots=True)
class LineError:
    """A wrong line: its number from 0, and the problem as `Problem.as_dict` has it."""

    line: int
    problem: Mapping[str, Any]

    def as_dict(self) -> dict[str, Any]:
        """As JSON: the line, and the members of the problem."""
        return {"line": self.line, **self.problem}


@dataclass(frozen=True, slots=True)
class BatchSnapshot:
    """A batch at one version, with the counts of that moment.

    `total` lines, of which `validated` have been checked and of which `inserted` stand as items, with their jobs.
    `errors` are the first line errors as documents, `error_count` how many there are.
    """

    id: str
    tenant_id: str
    name: str | None
    state: BatchState
    version: int
    lane: str
    total: int
    validated: int
    inserted: int
    counts: BatchCounts
    on_invalid: OnInvalid
    errors: list[dict[str, Any]]
    error_count: int
    cancel_requested: bool
    retry_of: str | None
    metadata: dict[str, str]
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
