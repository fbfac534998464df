"""What jobs may expect, for every answer: one look at a pool serves all of them for a second."""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, TypeVar

import structlog
from sqlalchemy import Connection

from common.db.engine import Database
from common.db.outlook import look_at_pool, next_start
from common.domain.catalogue import Catalogue
from common.domain.errors import Unavailable
from common.domain.fairness import Lane
from common.domain.outlook import UNKNOWN, Forecast, Outlook
from common.domain.snapshot import JobSnapshot

_FRESH_SECONDS: Final = 1.0
# Older ones are not used while somebody looks anew, but waited for, so long at most.
_USABLE_SECONDS: Final = 10.0
_WAIT_SECONDS: Final = 2.0

Found = TypeVar("Found")

_log = structlog.get_logger()


@dataclass(slots=True)
class _Pool:
    """The newest forecast (None: the database was away) and when it was made; replaced as one."""

    turn: threading.Lock = field(default_factory=threading.Lock)
    seen: tuple[float, Forecast | None] | None = None


class Outlooks:
    """Forecasts by pool, each made anew at most once a second and only when somebody asks. Thread-safe.

    Nothing here raises: what cannot be known is `UNKNOWN`. `fresh_seconds`: a worker counts that was heard within them;
    `clock` gives monotonic seconds.
    """

    def __init__(
        self,
        database: Database,
        catalogue: Catalogue,
        *,
        fresh_seconds: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._database = database
        self._guesses = {card.id: card.seconds_per_megapixel_step for card in catalogue}
        self._fresh_seconds = fresh_seconds
        self._clock = clock
        self._pools: dict[str, _Pool] = {}

    def of(self, job: JobSnapshot) -> Outlook:
        """What this job may expect. Reads the database when the last look is a second old: not for an event loop."""
        if job.state.is_terminal:
            return UNKNOWN
        forecast = self.forecast(job.pool)
        return UNKNOWN if forecast is None else forecast.of(job)

    def peek(self, job: JobSnapshot) -> Outlook:
        """The same by what is known already, which somebody keeps fresh with `refresh`; never waits."""
        forecast = self._within(self._pool(job.pool), _USABLE_SECONDS)
        return UNKNOWN if forecast is None else forecast.of(job)

    def refresh(self, pool: str) -> None:
        """Look at the pool, unless somebody has within the last second. Reads the database."""
        self.forecast(pool)

    def of_new(self, *, pool: str, tenant_id: str, lane: Lane, model: str, cost: float) -> Outlook:
        """What a job may expect that is submitted now; its position is that of its tag. Reads the database."""
        forecast = self.forecast(pool)
        if forecast is None:
            return Outlook(run_seconds=cost)
        start = self._read(lambda connection: next_start(connection, pool=pool, tenant_id=tenant_id, lane=lane))
        if start is None:
            return Outlook(run_seconds=forecast.seconds(model, cost))
        return forecast.of_new(start, model, cost)

    def forecast(self, pool: str) -> Forecast | None:
        """That of a look that is fresh, or that somebody else is about to replace; None while the database is away."""
        seat = self._pool(pool)
        if self._is_within(seat, _FRESH_SECONDS):
            return self._within(seat, _FRESH_SECONDS)
        patience = 0.0 if self._is_within(seat, _USABLE_SECONDS) else _WAIT_SECONDS
        if seat.turn.acquire(timeout=patience):
            try:
                if not self._is_within(seat, _FRESH_SECONDS):
                    forecast = self._look(pool)
                    seat.seen = (self._clock(), forecast)
            finally:
                seat.turn.release()
        return self._within(seat, _USABLE_SECONDS)

    def _look(self, pool: str) -> Forecast | None:
        return self._read(
            lambda connection: Forecast(look_at_pool(connection, pool, self._fresh_seconds), self._guesses)
        )

    def _read(self, look: Callable[[Connection], Found]) -> Found | None:
        try:
            with self._database.read() as connection:
                return look(connection)
        except Unavailable:
            return None
        except Exception as error:  # the edge of a look: a job that is committed is answered all the same
            _log.error("outlook.failed", exc_info=error)
            return None

    def _pool(self, name: str) -> _Pool:
        return self._pools.get(name) or self._pools.setdefault(name, _Pool())

    def _is_within(self, seat: _Pool, seconds: float) -> bool:
        return seat.seen is not None and self._clock() - seat.seen[0] < seconds

    def _within(self, seat: _Pool, seconds: float) -> Forecast | None:
        seen = seat.seen
        return seen[1] if seen is not None and self._clock() - seen[0] < seconds else None
