"""How busy the device thread is, for the log and for benchmarks."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class Usage:
    """Seconds in which the device thread worked, of those since its first work. Waiting for the sink is not work.

    `clock` gives monotonic seconds. Thread-safe.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._busy_seconds = 0.0
        self._waited_seconds = 0.0
        self._began_at: float | None = None
        self._worked_until = 0.0

    @contextmanager
    def working(self) -> Iterator[None]:
        """The device thread works within; a turn that finds nothing to do costs microseconds and counts as such."""
        began = self._clock()
        yield
        with self._lock:
            self._began_at = began if self._began_at is None else self._began_at
            self._worked_until = self._clock()
            self._busy_seconds += self._worked_until - began

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Within `working`: the thread waits for others."""
        began = self._clock()
        yield
        with self._lock:
            waited = self._clock() - began
            self._busy_seconds -= waited
            self._waited_seconds += waited

    def waited_seconds(self) -> float:
        """Seconds that the thread has waited for others since it began; `reset` leaves them."""
        with self._lock:
            return self._waited_seconds

    def reset(self) -> None:
        """Count from the next work on."""
        with self._lock:
            self._busy_seconds, self._began_at = 0.0, None

    def seconds(self) -> tuple[float, float]:
        """(busy, all) seconds from the first work to the end of the last."""
        with self._lock:
            if self._began_at is None:
                return 0.0, 0.0
            return self._busy_seconds, self._worked_until - self._began_at
