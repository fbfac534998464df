"""The watchdog: a device that gives no sign of life ends the process, and a new one takes its place."""

import threading
from collections import deque
from collections.abc import Callable
from statistics import median
from typing import Final

LOAD_SECONDS: Final = 1800.0
_TICKS: Final = 20
_REMEMBERED: Final = 50
_KINDS: Final = 64

Kind = tuple[str, int, int]


class Watchdog:
    """Knows until when the device thread must give a sign. `clock` gives monotonic seconds.

    A sign may take `floor_seconds`, or twenty times what it takes in the median tick of this model and size (of each
    tick the longest silence counts) when that is more; a load half an hour.
    """

    def __init__(self, floor_seconds: float, clock: Callable[[], float]) -> None:
        self._floor_seconds = floor_seconds
        self._clock = clock
        self._lock = threading.Lock()
        self._expected_by: float | None = None
        self._signed_at: float | None = None
        self._longest_seconds = 0.0
        self._kind: Kind | None = None
        self._silences: dict[Kind, deque[float]] = {}

    def expect_a_step(self, kind: Kind | None = None) -> None:
        """A step begins, or one is done and the next begins. `kind` is the model and its width and height in pixels,
        None for what has begun already.
        """
        with self._lock:
            now = self._clock()
            self._note_silence(now)
            self._kind = kind or self._kind
            self._signed_at = now
            self._expected_by = now + self._patience_seconds()

    def expect_a_load(self) -> None:
        """A model is being loaded."""
        with self._lock:
            self._signed_at = None
            self._expected_by = self._clock() + LOAD_SECONDS

    def pause(self) -> None:
        """The device waits, amid a tick, for something that is no fault of its own."""
        with self._lock:
            self._note_silence(self._clock())
            self._expected_by = self._signed_at = None

    def rest(self) -> None:
        """The device has done a tick, or has nothing to do."""
        with self._lock:
            self._note_silence(self._clock())
            if self._kind is not None:
                self._learn(self._kind)
            self._kind, self._longest_seconds = None, 0.0
            self._expected_by = self._signed_at = None

    def is_overdue(self) -> bool:
        """True when the sign is late."""
        with self._lock:
            return self._expected_by is not None and self._clock() > self._expected_by

    def _note_silence(self, now: float) -> None:
        if self._signed_at is not None:
            self._longest_seconds = max(self._longest_seconds, now - self._signed_at)

    def _learn(self, kind: Kind) -> None:
        """Remember this tick; of kinds the ones that ran last."""
        silences = self._silences.pop(kind, None) or deque(maxlen=_REMEMBERED)
        silences.append(self._longest_seconds)
        self._silences[kind] = silences
        if len(self._silences) > _KINDS:
            del self._silences[next(iter(self._silences))]

    def _patience_seconds(self) -> float:
        known = self._silences.get(self._kind) if self._kind is not None else None
        return max(self._floor_seconds, _TICKS * median(known)) if known else self._floor_seconds
