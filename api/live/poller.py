"""The one reader of the database for all who wait: look, tell, pause; and never more than so many looks a second."""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final

import structlog
from anyio import CapacityLimiter, to_thread

from api.live.room import WaitingRoom
from api.outlooks import Outlooks
from common.clock import monotonic_seconds
from common.db.engine import Database
from common.db.watching import Look, look_at_changes
from common.domain.errors import Unavailable
from common.domain.lifecycle import JobState
from common.domain.watching import Mark

LOOKS_A_SECOND: Final = 7  # on the long run; a look that finds nothing is two queries
MOST_SAVED_LOOKS: Final = 20  # a short job comes to its end at a brisk pace
QUERIES_A_SECOND: Final = 60  # however much changes
_LEAST_PAUSE_SECONDS: Final = 0.05
_SHARE_OF_PAUSES: Final = 5  # looks take a sixth of the time at most
_LONGEST_PAUSE_SECONDS: Final = 2.0  # but one slow look must not leave everybody in the dark
_OUTLOOK_SECONDS: Final = 1.0
_QUERIES_OF_AN_OUTLOOK: Final = 4
_FIRST_BACK_OFF_SECONDS: Final = 0.5
_LONGEST_BACK_OFF_SECONDS: Final = 5.0

_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class _Taken:
    """A look with what it cost: queries, those of the connection's own check included, and seconds."""

    look: Look
    queries: int
    seconds: float


class Budget:
    """Looks that may be made: so many a second on the long run, and some at once after a time with few.

    `clock` gives monotonic seconds.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._saved = float(MOST_SAVED_LOOKS)
        self._saved_at = clock()

    def spend(self, queries: int, seconds: float) -> float:
        """How long to leave the database alone after a look of so many queries that took so long together."""
        now = self._clock()
        earned = self._saved + (now - self._saved_at) * LOOKS_A_SECOND
        self._saved, self._saved_at = min(earned, MOST_SAVED_LOOKS) - 1, now
        owed = (1 - self._saved) / LOOKS_A_SECOND
        pause = max(_LEAST_PAUSE_SECONDS, owed, queries / QUERIES_A_SECOND, seconds * _SHARE_OF_PAUSES)
        return min(pause, _LONGEST_PAUSE_SECONDS)


class Poller:
    """Looks at the jobs of a waiting room again and again. With nobody waiting it does nothing."""

    def __init__(self, database: Database, outlooks: Outlooks, room: WaitingRoom) -> None:
        self._database = database
        self._outlooks = outlooks
        self._room = room
        self._thread = CapacityLimiter(1)
        self._outlooks_at = -_OUTLOOK_SECONDS
        self._back_off_seconds = 0.0
        self._budget = Budget(room.clock)

    async def run(self) -> None:
        """Look and pause, for ever."""
        while True:
            await self._room.until_somebody_waits()
            await asyncio.sleep(await self._look_or_back_off())

    async def look(self) -> float:
        """One look at everything that is watched, told to whom it concerns. Returns the seconds to pause after it.

        Raises `Unavailable` when the database is away; the watched jobs then stay as they are.
        """
        began = self._room.clock()
        known = {job_id: watched.mark for job_id, watched in self._room.jobs.items() if not watched.is_gone}
        pools = self._pools_due(began)
        taken = await to_thread.run_sync(self._read, known, pools, limiter=self._thread, abandon_on_cancel=True)
        self._tell(known, taken.look, began)
        if pools:
            self._expect()
        return self._budget.spend(taken.queries, taken.seconds)

    async def _look_or_back_off(self) -> float:
        try:
            pause = await self.look()
            self._room.note_look()
        except Unavailable as error:
            self._log_once(error.detail)
        except Exception as error:  # the edge of a look: those who wait go on waiting
            _log.error("live.failed", exc_info=error)
        else:
            if self._back_off_seconds:
                _log.info("live.available")
            self._back_off_seconds = 0.0
            return pause
        self._room.note_look(has_failed=True)
        doubled = self._back_off_seconds * 2 or _FIRST_BACK_OFF_SECONDS
        self._back_off_seconds = min(doubled, _LONGEST_BACK_OFF_SECONDS)
        return self._back_off_seconds

    def _log_once(self, detail: str) -> None:
        if not self._back_off_seconds:
            _log.warning("live.unavailable", detail=detail)

    def _read(self, known: dict[str, Mark], pools: set[str]) -> _Taken:
        """In a thread. Of the looks at pools this process makes one a second, whoever asks for it."""
        began = monotonic_seconds()
        with self._database.read() as connection:
            look = look_at_changes(connection, known)
        for pool in pools:
            self._outlooks.refresh(pool)
        queries = 1 + look.queries + _QUERIES_OF_AN_OUTLOOK * len(pools)
        return _Taken(look, queries, monotonic_seconds() - began)

    def _tell(self, known: dict[str, Mark], look: Look, began: float) -> None:
        for job_id in look.missing:
            if watched := self._room.jobs.get(job_id):
                watched.lose()
        for job_id, mark in look.unreadable.items():
            if watched := self._room.jobs.get(job_id):
                _log.warning("live.unreadable", job_id=job_id)
                watched.mark = mark  # its newest state is for a newer release to tell
        news = {job.id for job in look.changed}
        for job_id in known.keys() - look.missing - look.unreadable.keys() - news:
            if watched := self._room.jobs.get(job_id):
                watched.seen_at = max(watched.seen_at, began)
        for job in look.changed:
            if (watched := self._room.jobs.get(job.id)) and watched.take(job, look.events.get(job.id, ()), began):
                watched.expect(self._outlooks.peek(job))

    def _pools_due(self, moment: float) -> set[str]:
        """Of these the outlook is to be looked at anew: once a second those that a watched job is queued in."""
        if moment - self._outlooks_at < _OUTLOOK_SECONDS:
            return set()
        self._outlooks_at = moment
        return {watched.job.pool for watched in self._room.jobs.values() if watched.job.state is JobState.QUEUED}

    def _expect(self) -> None:
        for watched in self._room.jobs.values():
            if not watched.job.state.is_terminal:
                watched.expect(self._outlooks.peek(watched.job))


@asynccontextmanager
async def running(*works: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    """These go on beside each other for as long as the block lasts."""
    tasks = [asyncio.ensure_future(work) for work in works]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
