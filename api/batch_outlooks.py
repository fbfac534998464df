"""What batches may expect, for every answer: one look at a batch serves all of them for a second or more."""

import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

import structlog

from api.outlooks import Outlooks
from common.db.batch_outlook import look_at_batch
from common.db.engine import Database
from common.domain.batch import BatchOutlook, BatchSnapshot, BatchState
from common.domain.batch_outlook import UNKNOWN, outlook_of
from common.domain.errors import Unavailable

_FRESH_SECONDS: Final = 1.0
# A look is used so many times as long as it took, so that looking at a batch of 100,000 costs 5 % of a core at most.
_REST: Final = 20.0
_WAIT_SECONDS: Final = 2.0
_BATCHES: Final = 1000

_log = structlog.get_logger()


@dataclass(slots=True)
class _Seat:
    """The newest outlook of one version of a batch, and until when it serves; replaced as one."""

    turn: threading.Lock = field(default_factory=threading.Lock)
    seen: tuple[int, float, BatchOutlook] | None = None


class BatchOutlooks:
    """Forecasts by batch, each made anew when it is a second old and somebody asks. Thread-safe.

    Nothing here raises: what cannot be known is `UNKNOWN`. `clock` gives monotonic seconds.
    """

    def __init__(self, database: Database, outlooks: Outlooks, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._database = database
        self._outlooks = outlooks
        self._clock = clock
        self._lock = threading.Lock()
        self._seats: OrderedDict[str, _Seat] = OrderedDict()

    def of(self, batch: BatchSnapshot) -> BatchOutlook:
        """What this batch may expect. Reads the database when the last look is too old: not for an event loop."""
        if batch.state is not BatchState.RUNNING or batch.cancel_requested:
            return UNKNOWN
        seat = self._seat(batch.id)
        fresh = self._fresh(seat, batch)
        if fresh is not None:
            return fresh
        if not seat.turn.acquire(timeout=0.0 if seat.seen else _WAIT_SECONDS):
            return UNKNOWN if seat.seen is None else seat.seen[2]
        try:
            return self._fresh(seat, batch) or self._look(seat, batch)
        finally:
            seat.turn.release()

    def _look(self, seat: _Seat, batch: BatchSnapshot) -> BatchOutlook:
        began = self._clock()
        outlook = self._outlook(batch)
        now = self._clock()
        seat.seen = (batch.version, now + max(_FRESH_SECONDS, _REST * (now - began)), outlook)
        return outlook

    def _outlook(self, batch: BatchSnapshot) -> BatchOutlook:
        try:
            with self._database.read() as connection:
                parts = look_at_batch(connection, batch)
        except Unavailable:
            return UNKNOWN
        except Exception as error:  # the edge of a look: a batch is shown all the same
            _log.error("batch_outlook.failed", exc_info=error)
            return UNKNOWN
        forecasts = {part.pool: self._outlooks.forecast(part.pool) for part in parts}
        known = {pool: forecast for pool, forecast in forecasts.items() if forecast is not None}
        return outlook_of(parts, known, batch.total - batch.inserted)

    def _fresh(self, seat: _Seat, batch: BatchSnapshot) -> BatchOutlook | None:
        seen = seat.seen
        return seen[2] if seen is not None and seen[0] == batch.version and self._clock() < seen[1] else None

    def _seat(self, batch_id: str) -> _Seat:
        with self._lock:
            seat = self._seats.setdefault(batch_id, _Seat())
            self._seats.move_to_end(batch_id)
            if len(self._seats) > _BATCHES:
                self._seats.popitem(last=False)
            return seat
