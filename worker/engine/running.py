"""A frame in the step engine: its coroutine, how far it is, and what will be told of it."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import Any

from common.domain.batching import step_key
from common.domain.fairness import LANE_WEIGHT
from worker.engine.coroutines import Coroutine
from worker.engine.port import FrameRef, Prepared
from worker.engine.rows import Call

NAME = "step"


@dataclass(slots=True, eq=False)
class Running:
    """One frame; `left` are the evaluations of the model before it, as far as known. A parked frame stands still."""

    frame: Prepared
    coroutine: Coroutine
    left: int
    is_parked: bool = False
    joined_at: float = 0.0
    ticks: int = 0
    row_ticks: int = 0
    peak_rows: int = 0
    peak_frames: int = 1
    batched_with: int = 0

    @property
    def ref(self) -> FrameRef:
        """Which frame."""
        return self.frame.ref

    @property
    def key(self) -> str:
        """What frames share that a pass can take together: model, adapters and size."""
        return step_key(self.frame.params)

    @property
    def is_through(self) -> bool:
        """Whether its denoising is done."""
        return self.coroutine.waits_for is None

    @property
    def call(self) -> Call:
        """What it waits for. Raises RuntimeError once it is through."""
        if self.coroutine.waits_for is None:
            raise RuntimeError("the frame waits for nothing")
        return self.coroutine.waits_for

    @property
    def rows(self) -> int:
        """The rows that it brings into a pass."""
        return rows_of(self.frame) if self.is_through else self.call.rows

    @property
    def is_alone(self) -> bool:
        """Whether its passes take no other frame."""
        return self.frame.job.params.deterministic

    @property
    def urgency(self) -> float:
        """The weight of its lane."""
        return urgency_of(self.frame)

    def facts(self) -> dict[str, Any]:
        """What the job's metrics say of it: rows are those of the passes that it shared."""
        return {
            "engine": NAME,
            "frames": self.peak_frames,
            "batched_with": self.batched_with,
            "ticks": self.ticks,
            "mean_rows": round(self.row_ticks / max(1, self.ticks), 1),
            "peak_rows": self.peak_rows,
            "run_ms": round((perf_counter() - self.joined_at) * 1000),
        }


def rows_of(frame: Prepared) -> int:
    """The rows of a frame that has not joined: two with guidance, as all families have it."""
    return 2 if frame.params.guidance_scale > 1 else 1


def urgency_of(frame: Prepared) -> float:
    """The weight of the lane that the frame's job is in."""
    return LANE_WEIGHT[frame.job.lane]


def count_pass(group: Sequence[Running]) -> None:
    """Note for each frame of a pass who shared it."""
    rows = sum(one.rows for one in group)
    own = Counter(one.ref.job_id for one in group)
    for one in group:
        one.ticks += 1
        one.row_ticks += rows
        one.peak_rows = max(one.peak_rows, rows)
        one.peak_frames = max(one.peak_frames, len(group))
        one.batched_with = max(one.batched_with, len(group) - own[one.ref.job_id])
