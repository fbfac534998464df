"""Which jobs a worker may take before the first in order, because their model is loaded. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from common.domain.fairness import LANE_WEIGHT, Lane

AFFINITY_JOBS: Final = 32


@dataclass(frozen=True, slots=True)
class Affinity:
    """The models that a worker has loaded, and how long the first in order may be passed over for them, in seconds."""

    models: frozenset[str] = frozenset()
    patience_seconds: float = 30.0

    @property
    def is_none(self) -> bool:
        """Whether order alone decides."""
        return not self.models or self.patience_seconds <= 0


NO_AFFINITY: Final = Affinity()


@dataclass(frozen=True, slots=True)
class Waiting:
    """A claimable job; `passed_over_seconds` since a claim passed over it as the first, None: none has."""

    id: str
    vtime: float
    model: str
    lane: Lane
    solo: bool = False
    passed_over_seconds: float | None = None


def preferred(first: Sequence[Waiting], affinity: Affinity) -> list[Waiting]:
    """Of the first `AFFINITY_JOBS` in order those that may be taken before the very first, in order.

    Empty when order decides: the first has a loaded model, has been passed over long enough, or must run by itself
    (nobody would take it while such a worker never empties). No job of a lesser lane passes the first: that an urgent
    job is next is a promise, that models are seldom loaded is a saving.
    """
    if affinity.is_none or not first or _is_due(first[0], affinity):
        return []
    least = LANE_WEIGHT[first[0].lane]
    rest = first[1:AFFINITY_JOBS]
    return [one for one in rest if one.model in affinity.models and not one.solo and LANE_WEIGHT[one.lane] >= least]


def _is_due(job: Waiting, affinity: Affinity) -> bool:
    waited = job.passed_over_seconds
    return job.model in affinity.models or job.solo or (waited is not None and waited >= affinity.patience_seconds)
