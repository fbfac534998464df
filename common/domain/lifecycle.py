"""The lifecycle of a job: five states, the moves between them, and nothing else that assigns a state.

Every move is applied as one conditional UPDATE (`common.db.moves`): it says which states it may start from, and for a
worker's moves which fence; it adds one to `version` and writes one row of `job_events` in the same transaction.
"""

from dataclasses import dataclass
from enum import StrEnum


class JobState(StrEnum):
    """Where a job is. Terminal states never change; trying again is a new job."""

    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELED = "canceled"

    @property
    def is_terminal(self) -> bool:
        """True for the three states that a job never leaves."""
        return self in TERMINAL


TERMINAL = frozenset({JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELED})


class Hold(StrEnum):
    """Why a queued job is outside the claim index."""

    INTAKE = "intake"
    PAUSED = "paused"
    DELAYED = "delayed"


class Outcome(StrEnum):
    """How one attempt ended."""

    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELED = "canceled"
    RETRIED = "retried"
    RELEASED = "released"
    LOST = "lost"


@dataclass(frozen=True, slots=True)
class Move:
    """A named move from one state to others. `fenced`: only the attempt that holds the job may make it."""

    name: str
    source: JobState
    targets: tuple[JobState, ...]
    event: str
    fenced: bool = False

    @property
    def target(self) -> JobState:
        """The one state that this move leads to; a move with several is resolved by `after_return`."""
        (state,) = self.targets
        return state


INITIAL = JobState.QUEUED

_RETURN_TARGETS = (JobState.QUEUED, JobState.CANCELED, JobState.FAILED)

CLAIM = Move("claim", JobState.QUEUED, (JobState.RUNNING,), "job.claimed")
SUCCEED = Move("succeed", JobState.RUNNING, (JobState.SUCCEEDED,), "job.succeeded", fenced=True)
FAIL = Move("fail", JobState.RUNNING, (JobState.FAILED,), "job.failed", fenced=True)
CANCEL = Move("cancel", JobState.RUNNING, (JobState.CANCELED,), "job.canceled", fenced=True)
RETRY = Move("retry", JobState.RUNNING, _RETURN_TARGETS, "job.requeued", fenced=True)
RESCUE = Move("rescue", JobState.RUNNING, _RETURN_TARGETS, "job.requeued", fenced=True)
RELEASE = Move("release", JobState.RUNNING, _RETURN_TARGETS, "job.requeued", fenced=True)
CANCEL_QUEUED = Move("cancel_queued", JobState.QUEUED, (JobState.CANCELED,), "job.canceled")
FAIL_QUEUED = Move("fail_queued", JobState.QUEUED, (JobState.FAILED,), "job.failed")

MOVES = (CLAIM, SUCCEED, FAIL, CANCEL, RETRY, RESCUE, RELEASE, CANCEL_QUEUED, FAIL_QUEUED)

TERMINAL_EVENTS = {
    JobState.SUCCEEDED: "job.succeeded",
    JobState.FAILED: "job.failed",
    JobState.CANCELED: "job.canceled",
}


def after_return(*, cancel_requested: bool, deadline_passed: bool) -> JobState:
    """Where a job goes that leaves its worker unfinished. The SQL CASE of `common.db.moves` says the same."""
    if cancel_requested:
        return JobState.CANCELED
    return JobState.FAILED if deadline_passed else JobState.QUEUED
