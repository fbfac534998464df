"""What jobs may expect: their place in the order of service, and seconds by what workers have measured. Pure.

A cost is predicted by the guess of the catalogue; its seconds are the cost times measured pace / guess of its model,
the pace averaged over the workers that have measured it. What nobody has measured counts as it was predicted.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from statistics import fmean
from typing import Final

from common.domain.lifecycle import JobState
from common.domain.snapshot import JobSnapshot

_POLLS_OF_A_WAIT: Final = 3
_LONGEST_POLL_SECONDS: Final = 30


@dataclass(frozen=True, slots=True)
class Outlook:
    """What a job may expect, as far as it is known.

    `position`: claimable jobs of its pool before it, or with `is_lower_bound` at least so many; `start_seconds` until
    it reaches a device; `run_seconds` on the device, all of it for a queued job, what is left of it for a running one.
    """

    position: int | None = None
    is_lower_bound: bool = False
    start_seconds: float | None = None
    run_seconds: float | None = None


UNKNOWN: Final = Outlook()


@dataclass(frozen=True, slots=True)
class QueuedJob:
    """A claimable job; `cost` in predicted device seconds."""

    vtime: float
    id: str
    model: str
    cost: float


@dataclass(frozen=True, slots=True)
class RunningJob:
    """A job that a worker holds; `done` is the share of its steps that it has reported, 0 to 1."""

    model: str
    cost: float
    done: float


@dataclass(frozen=True, slots=True)
class PoolLook:
    """A pool at one moment: its first claimable jobs in the order of service, what runs, and who works.

    `is_cut`: there may be more queued jobs behind these. `paces`: of each ready worker the device seconds per megapixel
    and step that it has measured, by model. `is_paused`: nothing is claimed.
    """

    queued: Sequence[QueuedJob] = ()
    is_cut: bool = False
    running: Sequence[RunningJob] = ()
    paces: Sequence[Mapping[str, float]] = ()
    is_paused: bool = False


class Forecast:
    """The outlook of any job of one pool, by one look at it. Immutable, so that threads may share it.

    `guesses`: the catalogue's seconds per megapixel and step, by model. `running_seconds` are left of what runs;
    `workers` may claim now, none of a paused pool.
    """

    def __init__(self, look: PoolLook, guesses: Mapping[str, float]) -> None:
        self._scales = scales(look.paces, guesses)
        self._places = [(job.vtime, job.id) for job in look.queued]
        self._seconds_before = [0.0, *accumulate(self.seconds(job.model, job.cost) for job in look.queued)]
        self._is_cut = look.is_cut
        self.running_seconds = sum(self.seconds(job.model, job.cost) * (1 - job.done) for job in look.running)
        self.workers = 0 if look.is_paused else len(look.paces)

    def of(self, job: JobSnapshot) -> Outlook:
        """The outlook of this job of the pool; it need not be in the look. `UNKNOWN` for a finished one."""
        run_seconds = self.seconds(job.params.model, job.cost)
        if job.state is JobState.RUNNING:
            return Outlook(run_seconds=run_seconds * (1 - share_done(job)))
        if job.state is not JobState.QUEUED:
            return UNKNOWN
        if job.held is not None:
            return Outlook(run_seconds=run_seconds)
        return self._at(bisect_left(self._places, (job.vtime, job.id)), run_seconds)

    def of_new(self, vtime: float, model: str, cost: float) -> Outlook:
        """The outlook of a job that is submitted now and gets this tag: those with the same one are before it."""
        return self._at(bisect_right(self._places, vtime, key=lambda place: place[0]), self.seconds(model, cost))

    def seconds(self, model: str, cost: float) -> float:
        """Device seconds of a job of this cost, by what was measured."""
        return cost * self._scales.get(model, 1.0)

    def place(self, vtime: float, job_id: str) -> tuple[int, bool]:
        """How many claimable jobs are before this one, and whether they may be more: those beyond the look."""
        place = bisect_left(self._places, (vtime, job_id))
        return place, self._is_beyond(place)

    def seconds_up_to(self, vtime: float) -> float | None:
        """Device seconds of all claimable jobs with this tag or a lesser one; None when the look does not reach it."""
        place = bisect_right(self._places, vtime, key=lambda place: place[0])
        return None if self._is_beyond(place) else self._seconds_before[place]

    def _at(self, place: int, run_seconds: float) -> Outlook:
        """Behind so many of the look; beyond its end that is a bound, and so are the seconds."""
        before = self.running_seconds + self._seconds_before[place]
        start_seconds = before / self.workers if self.workers else None
        return Outlook(
            place, is_lower_bound=self._is_beyond(place), start_seconds=start_seconds, run_seconds=run_seconds
        )

    def _is_beyond(self, place: int) -> bool:
        return self._is_cut and place == len(self._places)


def share_done(job: JobSnapshot) -> float:
    """The share of its steps that a running job has reported, 0 to 1."""
    if job.progress is None or not job.progress.steps:
        return 0.0
    return min(1.0, job.progress.step / job.progress.steps)


def poll_seconds(job: JobSnapshot, outlook: Outlook) -> int:
    """When to look again, 1 to 30: after a third of the time until the job starts, or while it runs until it ends."""
    wait = outlook.start_seconds if job.state is JobState.QUEUED else outlook.run_seconds
    return 1 if wait is None else max(1, min(_LONGEST_POLL_SECONDS, int(wait / _POLLS_OF_A_WAIT)))


def scales(paces: Sequence[Mapping[str, float]], guesses: Mapping[str, float]) -> dict[str, float]:
    """Measured pace / guess of each model that a worker has measured and the catalogue knows; all are > 0.

    `paces`: of each worker, by model; `guesses`: those of the catalogue.
    """
    measured: dict[str, list[float]] = {}
    for one in paces:
        for model, pace in one.items():
            measured.setdefault(model, []).append(pace)
    return {model: fmean(seen) / guesses[model] for model, seen in measured.items() if guesses.get(model)}
