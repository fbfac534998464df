"""What jobs must be after any history, in plain Python: the oracle that the SQL is compared with after every step.

Every method does what a call on the database must do, and returns what that call must answer.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

from common.domain.fairness import Lane
from common.domain.lifecycle import JobState, after_return
from common.domain.retry import Decision, GiveUp, ProcessEnd, TryAgain, after_loss, is_solo_crash

QUEUED, RUNNING = JobState.QUEUED, JobState.RUNNING


@dataclass
class Attempt:
    """One claim of a job: who made it and how it ended; an open one has no outcome."""

    worker: str
    has_joined: bool = False
    outcome: str | None = None
    code: str | None = None


@dataclass
class Job:
    """One job as its rows must be; `is_expired`, `is_due` and `is_late` are moments that have passed."""

    id: str
    lane: Lane
    step_key: str
    call_key: str
    vtime: float
    max_tries: int
    state: JobState = QUEUED
    held: str | None = None
    version: int = 1
    fence: int = 0
    tries: int = 0
    attempt: int = 0
    solo: bool = False
    solo_crashes: int = 0
    worker: str | None = None
    code: str | None = None
    is_cancel_wished: bool = False
    is_late: bool = False
    is_expired: bool = False
    is_due: bool = False
    is_erased: bool = False
    attempts: dict[int, Attempt] = field(default_factory=dict)
    events: list[str] = field(default_factory=lambda: ["job.queued"])
    steps: dict[int, int] = field(default_factory=dict)
    image_fence: int | None = None

    @property
    def order(self) -> tuple[float, str]:
        """Jobs are served in this order."""
        return self.vtime, self.id

    @property
    def is_claimable(self) -> bool:
        """Whether a claim may take it, as far as it alone is concerned."""
        return self.state is QUEUED and self.held is None and not self.is_late and not self.is_cancel_wished

    def is_held_by(self, fence: int) -> bool:
        """Whether the attempt with this fence may write."""
        return self.state is RUNNING and self.fence == fence

    def step_to(self, state: JobState, event: str, code: str | None = None) -> None:
        """One durable transition."""
        self.state, self.code = state, code
        self.version += 1
        self.events.append(f"job.{state}" if state.is_terminal else event)
        if state is not RUNNING:
            self.worker, self.is_expired = None, False
        if state is not QUEUED:
            self.held, self.is_due = None, False

    def end_attempt(self, outcome: str, code: str | None = None) -> None:
        """Close the newest attempt."""
        mine = self.attempts[self.fence]
        mine.outcome, mine.code = outcome, code

    def give_back(self, decision: TryAgain, crashes: int) -> None:
        """Off its worker: the wish, then the deadline, then the queue."""
        self.solo |= decision.solo
        self.solo_crashes += crashes
        self.tries -= decision.refund
        state = after_return(cancel_requested=self.is_cancel_wished, deadline_passed=self.is_late)
        self.step_to(state, "job.requeued", "deadline_exceeded" if state is JobState.FAILED else None)
        if state is QUEUED and decision.delay_seconds > 0:
            self.held = "delayed"


@dataclass
class Model:
    """All jobs of one pool; `ends`: how workers ended, of those whose supervisor saw it."""

    jobs: dict[str, Job] = field(default_factory=dict)
    ends: dict[str, ProcessEnd] = field(default_factory=dict)
    is_paused: bool = False

    def claim(self, worker: str, limit: int, *, alone: bool, by_step: bool, urgent: bool) -> list[str]:
        """The ids that a claim takes, in order."""
        taken = self._choose(limit, alone=alone, by_step=by_step, urgent=urgent)
        for job in taken:
            job.step_to(RUNNING, "job.claimed")
            job.fence += 1
            job.tries += 1
            job.worker = worker
            job.attempts[job.fence] = Attempt(worker)
        return [job.id for job in taken]

    def _choose(self, limit: int, *, alone: bool, by_step: bool, urgent: bool) -> list[Job]:
        queue = sorted((job for job in self.jobs.values() if job.is_claimable), key=lambda job: job.order)
        if urgent:
            queue = [job for job in queue if job.lane is Lane.HIGH and (alone or not job.solo)]
        if self.is_paused or not queue:
            return []
        head, *rest = queue
        if head.solo:
            return [head] if alone else []
        alike = [job for job in rest if not job.solo and job.step_key == head.step_key]
        return [head, *(job for job in alike if by_step or job.call_key == head.call_key)][:limit]

    def join(self, job: Job, fence: int) -> bool:
        """The attempt reaches the device, once."""
        if not job.is_held_by(fence):
            return False
        if not job.attempts[fence].has_joined:
            job.attempts[fence].has_joined = True
            job.attempt += 1
            job.step_to(RUNNING, "job.started")
        return True

    def finish(self, job: Job, fence: int) -> bool:
        """The attempt succeeds."""
        if not job.is_held_by(fence):
            return False
        job.step_to(JobState.SUCCEEDED, "")
        job.end_attempt("succeeded")
        job.image_fence = fence
        return True

    def fail(self, job: Job, fence: int, code: str) -> bool:
        """The attempt fails its job for good."""
        if not job.is_held_by(fence):
            return False
        job.step_to(JobState.FAILED, "", code)
        job.end_attempt("failed", code)
        return True

    def cancel_running(self, job: Job, fence: int) -> bool:
        """The worker let go of the job."""
        if not job.is_held_by(fence):
            return False
        job.step_to(JobState.CANCELED, "")
        job.end_attempt("canceled")
        return True

    def hand_back(self, job: Job, fence: int, decision: TryAgain, code: str, crashes: int = 0) -> bool:
        """The worker gives the job back."""
        if not job.is_held_by(fence):
            return False
        job.give_back(decision, crashes)
        job.end_attempt("released" if decision.refund else "retried", code)
        return True

    def record_step(self, job: Job, fence: int, number: int) -> bool:
        """A pass of a chain is done."""
        if job.is_held_by(fence):
            job.steps[number] = fence
        return job.is_held_by(fence)

    def cancel(self, job: Job) -> None:
        """The client's wish: met at once unless the device has begun."""
        if job.state.is_terminal:
            return
        job.is_cancel_wished = True
        if job.state is QUEUED:
            job.step_to(JobState.CANCELED, "")
        elif not job.attempts[job.fence].has_joined:
            job.step_to(JobState.CANCELED, "")
            job.end_attempt("canceled")

    def edit(self, job: Job, lane: Lane, vtime: float) -> bool:
        """The client changes a job that waits; in its own lane it keeps its place."""
        if job.state is not QUEUED or (lane is job.lane and vtime != job.vtime):
            return False
        job.lane, job.vtime = lane, vtime
        job.step_to(QUEUED, "job.edited")
        return True

    def sweep(self) -> int:
        """One sweep. Returns how many jobs it moves."""
        expired = self._where(lambda job: job.state is RUNNING and job.is_expired)
        companies = [self._has_company(job) for job in expired]
        for job, has_company in zip(expired, companies, strict=True):
            self._rescue(job, has_company)
        late = self._where(lambda job: job.state is QUEUED and job.is_late)
        for job in late:
            job.step_to(JobState.FAILED, "", "deadline_exceeded")
        due = self._where(lambda job: job.held == "delayed" and job.is_due)
        for job in due:
            job.held, job.is_due = None, False
        return len(expired) + len(late) + len(due)

    def _rescue(self, job: Job, has_company: bool) -> None:
        mine, alone = job.attempts[job.fence], not has_company
        end = self.ends.get(mine.worker)
        crashes = int(is_solo_crash(joined=mine.has_joined, alone=alone, end=end))
        decision = loss_of(job, joined=mine.has_joined, alone=alone, crashes=crashes, end=end)
        code = decision.code if isinstance(decision, GiveUp) else "worker_lost"
        if isinstance(decision, GiveUp) and not job.is_cancel_wished and not job.is_late:
            job.solo_crashes += crashes
            job.step_to(JobState.FAILED, "", decision.code)
        else:
            job.give_back(decision if isinstance(decision, TryAgain) else TryAgain(), crashes)
        job.end_attempt("lost", code)

    def _has_company(self, job: Job) -> bool:
        """Whether another attempt was in that process when it went: one that is open, or was lost."""
        worker = job.attempts[job.fence].worker
        return any(
            attempt.worker == worker and attempt.outcome in {None, "lost"}
            for other in self.jobs.values()
            if other is not job
            for attempt in other.attempts.values()
        )

    def end_process(self, worker: str, end: ProcessEnd) -> None:
        """A supervisor saw a worker end: nobody has to wait for its leases. Only the first word counts."""
        if worker not in self.ends:
            self.ends[worker] = end
            for job in self.held_by(worker):
                job.is_expired = True

    def held_by(self, worker: str) -> list[Job]:
        """The running jobs of a worker."""
        return self._where(lambda job: job.state is RUNNING and job.worker == worker)

    def _where(self, condition: Callable[[Job], bool]) -> list[Job]:
        return [job for job in self.jobs.values() if condition(job)]


def loss_of(job: Job, *, joined: bool, alone: bool, crashes: int, end: ProcessEnd | None = None) -> Decision:
    """What becomes of a job whose worker or device is lost; `crashes` is 1 when it is to blame."""
    return after_loss(
        joined=joined,
        alone=alone,
        solo_crashes=job.solo_crashes + crashes,
        tries=job.tries,
        max_tries=job.max_tries,
        jitter=0.0,
        end=end,
    )
