"""How long frames will still be on the device: what the claimer needs to claim a little ahead and no more."""

import threading
from collections.abc import Callable
from dataclasses import dataclass

from worker.engine.port import FrameRef

_SMOOTHING = 0.3


@dataclass(slots=True)
class _Run:
    left: int
    stepped_at: float | None


class Pace:
    """Knows how many steps each running frame has before it, and learns how long a step takes. Thread-safe.

    `clock` gives monotonic seconds. Steps of another size or in other company are learned within a few steps.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._runs: dict[FrameRef, _Run] = {}
        self._step_seconds: float | None = None

    def join(self, ref: FrameRef, steps_left: int) -> None:
        """The frame is on the device and has so many steps before it."""
        with self._lock:
            self._runs[ref] = _Run(max(1, steps_left), None)

    def step(self, ref: FrameRef, steps_left: int) -> None:
        """The frame has done some of them."""
        with self._lock:
            run, now = self._runs.get(ref), self._clock()
            if run is None:
                return
            done = run.left - max(1, steps_left)
            if run.stepped_at is not None and done > 0:
                self._learn((now - run.stepped_at) / done)
            run.left, run.stepped_at = max(1, steps_left), now

    def leave(self, ref: FrameRef) -> None:
        """The frame is not on the device any more."""
        with self._lock:
            self._runs.pop(ref, None)

    def running(self) -> int:
        """How many frames are on the device."""
        with self._lock:
            return len(self._runs)

    def leaving_within(self, seconds: float) -> int:
        """How many of them will be through within so many seconds; none while the time of a step is not known."""
        with self._lock:
            known = self._step_seconds
            return 0 if known is None else sum(run.left * known <= seconds for run in self._runs.values())

    def seconds_left(self) -> float | None:
        """Seconds until the device is free: 0 when it is, None while nothing is known yet."""
        with self._lock:
            if not self._runs:
                return 0.0
            if self._step_seconds is None:
                return None
            return max(run.left for run in self._runs.values()) * self._step_seconds

    def _learn(self, seconds: float) -> None:
        known = self._step_seconds
        self._step_seconds = seconds if known is None else known + _SMOOTHING * (seconds - known)
