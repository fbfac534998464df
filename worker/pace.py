"""How long the device will still be busy: what the claimer needs to claim a little ahead and no more."""

import threading
from collections.abc import Callable

_SMOOTHING = 0.3


class Pace:
    """Estimates the rest of the running work from the time that its steps take.

    `clock` gives monotonic seconds. Steps of another size are learned within a few steps.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._remaining = 0
        self._observed_at = 0.0
        self._step_seconds: float | None = None

    def observe(self, remaining: int) -> None:
        """The device still has `remaining` steps to do; 0 when it is free."""
        with self._lock:
            now = self._clock()
            done = self._remaining - remaining
            if done > 0:
                self._learn((now - self._observed_at) / done)
            if done != 0:
                self._remaining, self._observed_at = remaining, now

    def seconds_left(self) -> float | None:
        """Seconds until the device is free: 0 when it is, None while nothing is known yet."""
        with self._lock:
            if self._remaining == 0:
                return 0.0
            return None if self._step_seconds is None else self._remaining * self._step_seconds

    def _learn(self, seconds: float) -> None:
        known = self._step_seconds
        self._step_seconds = seconds if known is None else known + _SMOOTHING * (seconds - known)
