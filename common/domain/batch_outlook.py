"""What a batch may expect: the place of its first waiting job, and when its last one is done. Pure.

A batch is done when its tail is: what is tagged up to the tail is served before it, shared by the ready workers. Within
the look at the pool that is summed job by job. Beyond it, it is told by the flows: one of weight w whose jobs reach up
to the tag F has about w x (F - V) device seconds before it, V being the virtual time of the pool, because every job
moves its flow's tag by cost / weight. What is held in other flows counts as if it were served, and what is yet to be
submitted does not count.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from common.domain.batch import BatchOutlook
from common.domain.outlook import Forecast, RunningJob

UNKNOWN: Final = BatchOutlook()


@dataclass(frozen=True, slots=True)
class Share:
    """Waiting jobs of one model, `cost` in predicted device seconds of all of them; `claimable` of it is not held.

    How many `jobs` may be an estimate, and so a fraction.
    """

    model: str
    jobs: float
    cost: float
    claimable: float


@dataclass(frozen=True, slots=True)
class Flow:
    """A flow of a pool: its weight, and the finish tag of its newest job."""

    weight: float
    finish: float
    is_own: bool = False


@dataclass(frozen=True, slots=True)
class Part:
    """What a batch has in one pool: its waiting jobs, those that run, and the flows of that pool.

    `first`: tag and id of its first claimable job, if it has one. `last`: the largest tag of its waiting ones.
    """

    pool: str
    waiting: Sequence[Share] = ()
    running: Sequence[RunningJob] = ()
    first: tuple[float, str] | None = None
    last: float = 0.0
    flows: Sequence[Flow] = ()
    virtual_time: float = 0.0

    @property
    def jobs(self) -> float:
        """How many of its jobs wait or run here."""
        return sum(share.jobs for share in self.waiting) + len(self.running)


def outlook_of(parts: Sequence[Part], forecasts: Mapping[str, Forecast], missing: int) -> BatchOutlook:
    """The outlook of a running batch by its part in every pool; a pool without forecast is not known.

    `missing`: lines whose job does not stand yet. They count as the others do on average, spread like those, and come
    last. The position is the least, the seconds are those of the pool that is done last.
    """
    known = sum(part.jobs for part in parts)
    if any(part.pool not in forecasts for part in parts) or not known:
        return UNKNOWN if missing or known else BatchOutlook(eta_seconds=0.0)
    ends = [_end(part, forecasts[part.pool], missing * part.jobs / known) for part in parts]
    eta = None if any(end is None for end in ends) else max(end for end in ends if end is not None)
    places = [forecasts[part.pool].place(*part.first) for part in parts if part.first is not None]
    if not places:
        return BatchOutlook(eta_seconds=eta)
    position, is_lower_bound = min(places)
    return BatchOutlook(position, is_lower_bound=is_lower_bound, eta_seconds=eta)


def _end(part: Part, forecast: Forecast, missing: float) -> float | None:
    """Seconds until its last job in this pool is done; None while nobody works there."""
    if not forecast.workers:
        return None
    running = [forecast.seconds(job.model, job.cost) * (1 - job.done) for job in part.running]
    longest = max(running, default=0.0)
    standing = [(share.jobs, forecast.seconds(share.model, share.cost)) for share in part.waiting]
    standing_jobs, standing_seconds = sum(jobs for jobs, _ in standing), sum(seconds for _, seconds in standing)
    if not standing_jobs and not missing:
        return longest
    mean = standing_seconds / standing_jobs if standing_jobs else _mean(part, forecast)
    own = standing_seconds + missing * mean
    before = forecast.running_seconds + _others(part, forecast, missing * mean) + max(0.0, own - mean)
    return max(longest, before / forecast.workers + mean)


def _others(part: Part, forecast: Forecast, missing_seconds: float) -> float:
    """Device seconds of others that are served before the tail of this part."""
    own = sum(forecast.seconds(share.model, share.claimable) for share in part.waiting)
    last = _tail(part, missing_seconds)
    counted = forecast.seconds_up_to(last)
    if counted is None:
        counted = sum(flow.weight * max(0.0, min(flow.finish, last) - part.virtual_time) for flow in part.flows)
    return max(0.0, counted - own)


def _tail(part: Part, missing_seconds: float) -> float:
    """The tag of the last job, that of the missing ones when there are any: those are drawn behind the own flow."""
    own = next((flow for flow in part.flows if flow.is_own), None)
    if not missing_seconds or own is None:
        return part.last
    return max(own.finish, part.virtual_time) + missing_seconds / own.weight


def _mean(part: Part, forecast: Forecast) -> float:
    seconds = [forecast.seconds(job.model, job.cost) for job in part.running]
    return sum(seconds) / len(seconds) if seconds else 0.0
