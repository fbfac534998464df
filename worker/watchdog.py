"""The watchdog: a device that gives no sign of life ends the process, and a new one takes its place."""

import threading
from collections.abc import Callable

LOAD_SECONDS = 1800.0
_STEPS = 20


class Watchdog:
    """Knows until when the device thread must give a sign. `clock` gives monotonic seconds.

    A step may take `floor_seconds`, or twenty times the slowest step seen when that is more; a load half an hour.
    """

    def __init__(self, floor_seconds: float, clock: Callable[[], float]) -> None:
        self._floor_seconds = floor_seconds
        self._clock = clock
        self._lock = threading.Lock()
        self._expected_by: float | None = None
        self._stepped_at: float | None = None
        self._slowest_seconds = 0.0

    def expect_a_step(self) -> None:
        """A step begins, or one is done and the next begins."""
        with self._lock:
            now = self._clock()
            if self._stepped_at is not None:
                self._slowest_seconds = max(self._slowest_seconds, now - self._stepped_at)
            self._stepped_at = now
            self._expected_by = now + max(self._floor_seconds, _STEPS * self._slowest_seconds)

    def expect_a_load(self) -> None:
        """A model is being loaded."""
        with self._lock:
            self._expected_by = self._clock() + LOAD_SECONDS

    def rest(self) -> None:
        """The device has nothing to do."""
        with self._lock:
            self._expected_by = self._stepped_at = None

    def is_overdue(self) -> bool:
        """True when the sign is late."""
        with self._lock:
            return self._expected_by is not None and self._clock() > self._expected_by
