"""Start-time fair queuing (Goyal, Vin, Cheng 1996) over flows of (pool, tenant, lane).

At submit `start = max(flow.finish, V)` and `flow.finish = start + cost / weight`; jobs are served by `start`. V is the
largest start tag served so far in the pool. An idle flow earns no credit, a long one delays only its own tail.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from common.domain.catalogue import Catalogue
from common.domain.params import EditParams


class Lane(StrEnum):
    """The priority of a job; also the name of its flow's lane."""

    HIGH = "high"
    NORMAL = "normal"
    LOW = "low"


LANE_WEIGHT = {Lane.HIGH: 8.0, Lane.NORMAL: 4.0, Lane.LOW: 1.0}


@dataclass(frozen=True, slots=True)
class Tag:
    """The start tag of a job and the finish tag that its flow has after it."""

    start: float
    finish: float


def tag(*, flow_finish: float, virtual_time: float, cost: float, weight: float) -> Tag:
    """The tag of one job of `cost` predicted device seconds (> 0) in a flow of `weight` (> 0)."""
    start = max(flow_finish, virtual_time)
    return Tag(start, start + cost / weight)


def predicted_seconds(*, frames: int, steps: int, width: int, height: int, seconds_per_megapixel_step: float) -> float:
    """Predicted device seconds of a job: frames x steps run x megapixels x the model's measured factor."""
    return max(1e-3, frames * (steps + 1) * (width * height / 1e6) * seconds_per_megapixel_step)


def predicted_cost(params: EditParams, catalogue: Catalogue) -> float:
    """Predicted device seconds of a job: the sum over its passes."""
    return sum(
        predicted_seconds(
            frames=params.num_images,
            steps=one.effective_steps,
            width=one.width,
            height=one.height,
            seconds_per_megapixel_step=catalogue.require(one.model).seconds_per_megapixel_step,
        )
        for one in params.passes
    )


@dataclass(frozen=True, slots=True)
class Waiting:
    """A queued job with its tag, and its share of its flow's service: charged device seconds / weight."""

    start: float
    share: float


def drawn_together(queue: Sequence[Waiting], *, end: float, virtual_time: float) -> tuple[list[Tag], float]:
    """New tags of jobs of one flow, in the order of their tags, after others of it have left; and where the next page
    of the flow begins.

    `end` is where the page before ended; at first where the gap begins, or anything up to V. Gaps close; no tag is
    raised, and none is put before V, so that nobody else's place gets worse than the flow's weight allows.
    """
    tags = []
    for job in queue:
        start = min(job.start, max(end, virtual_time))
        end = start + job.share
        tags.append(Tag(start, end))
    return tags, end
