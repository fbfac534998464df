"""The batches that streams follow: one look a second at all of them, whoever and however many they are."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final

import structlog
from anyio import CapacityLimiter, to_thread

from api.batch_outlooks import BatchOutlooks
from api.live.room import WaitingRoom
from api.live.watched import Waiter
from common.clock import monotonic_seconds
from common.db.batches import find_batch, find_states
from common.db.engine import Database
from common.domain.batch import BatchOutlook, BatchSnapshot
from common.domain.errors import Unavailable

_PAUSE_SECONDS: Final = 1.0
_SHARE_OF_PAUSES: Final = 4  # looks take a fifth of the time at most
_LONGEST_PAUSE_SECONDS: Final = 10.0
_COUNTING_SECONDS: Final = 0.5  # of one look; who was not counted in it comes first in the next
_FRESH_SECONDS: Final = 0.5
_BACK_OFF_SECONDS: Final = 3.0

_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class BatchSighting:
    """A batch as one look saw it at `seen_at` (the clock of the waiting room), and what it may expect."""

    batch: BatchSnapshot
    outlook: BatchOutlook
    seen_at: float


@dataclass(slots=True, eq=False)
class WatchedBatch:
    """What all streams of one batch share: `sighting`, of the newest common look. `is_gone`: there is no such batch any
    more.

    `newest` may be what a newcomer has seen between two looks. Other newcomers begin with it, but who is told already
    waits for the next look: there are never two reports within a second.
    """

    sighting: BatchSighting
    newest: BatchSighting
    is_gone: bool = False
    waiters: set[Waiter] = field(default_factory=set)

    def take(self, sighting: BatchSighting) -> None:
        """The result of a common look, unless a newer one is known; wakes the waiters when it is news."""
        old = self.sighting
        if sighting.seen_at < old.seen_at or sighting.batch.version < old.batch.version:
            return
        self.sighting = sighting
        self.meet(sighting)
        if (sighting.batch, sighting.outlook) != (old.batch, old.outlook):
            self.wake()

    def meet(self, sighting: BatchSighting) -> None:
        """What somebody has seen; wakes nobody."""
        if sighting.seen_at >= self.newest.seen_at and sighting.batch.version >= self.newest.batch.version:
            self.newest = sighting

    def lose(self) -> None:
        """The batch has no row any more."""
        self.is_gone = True
        self.wake()

    def wake(self) -> None:
        """Wake everybody who follows this batch."""
        for waiter in self.waiters:
            waiter.wake()


class BatchWatch:
    """Looks at the followed batches again and again; with nobody following it does nothing. For the event loop alone.

    Places are those of the waiting room.
    """

    def __init__(self, database: Database, outlooks: BatchOutlooks, room: WaitingRoom) -> None:
        self.batches: dict[str, WatchedBatch] = {}
        self.room = room
        self._database = database
        self._outlooks = outlooks
        self._somebody = asyncio.Event()
        self._thread = CapacityLimiter(1)
        self._is_away = False

    @contextmanager
    def waiting(self, sighting: BatchSighting) -> Iterator[tuple[WatchedBatch, Waiter]]:
        """A place for one stream and the batch that it follows. Raises `Unavailable` when all places are taken."""
        with self.room.seat("stream") as waiter:
            batch_id = sighting.batch.id
            watched = self.batches.setdefault(batch_id, WatchedBatch(sighting, sighting))
            watched.meet(sighting)
            del sighting
            watched.waiters.add(waiter)
            self._somebody.set()
            try:
                yield watched, waiter
            finally:
                watched.waiters.discard(waiter)
                if not watched.waiters and self.batches.get(batch_id) is watched:
                    del self.batches[batch_id]

    def find_fresh(self, tenant_id: str, batch_id: str) -> BatchSighting | None:
        """This tenant's batch if it was looked at within half a second."""
        watched = self.batches.get(batch_id)
        if watched is None or watched.is_gone or watched.newest.batch.tenant_id != tenant_id:
            return None
        is_fresh = self.room.clock() - watched.newest.seen_at < _FRESH_SECONDS
        return watched.newest if is_fresh else None

    async def run(self) -> None:
        """Look and pause, for ever."""
        while True:
            if not self.batches:
                self._somebody.clear()
            await self._somebody.wait()
            await asyncio.sleep(await self._look_or_back_off())

    async def look(self) -> float:
        """One look at everything that is followed, told to whom it concerns. Returns the seconds to pause after it.

        Raises `Unavailable` when the database is away; the batches then stay as they are.
        """
        known = sorted((watched.sighting for watched in self.batches.values()), key=lambda one: one.seen_at)
        began = monotonic_seconds()
        sightings, missing = await to_thread.run_sync(self._read, known, limiter=self._thread, abandon_on_cancel=True)
        for batch_id in missing:
            if watched := self.batches.get(batch_id):
                watched.lose()
        for sighting in sightings:
            if watched := self.batches.get(sighting.batch.id):
                watched.take(sighting)
        seconds = monotonic_seconds() - began
        return min(max(_PAUSE_SECONDS, seconds * _SHARE_OF_PAUSES), _LONGEST_PAUSE_SECONDS)

    async def _look_or_back_off(self) -> float:
        try:
            pause = await self.look()
        except Unavailable as error:
            if not self._is_away:
                _log.warning("batches.unavailable", detail=error.detail)
        except Exception as error:  # the edge of a look: who follows goes on waiting
            _log.error("batches.failed", exc_info=error)
        else:
            self._is_away = False
            return pause
        self._is_away = True
        return _BACK_OFF_SECONDS

    def _read(self, known: list[BatchSighting]) -> tuple[list[BatchSighting], set[str]]:
        """In a thread: those in another state first, then by how long ago they were counted, as time allows."""
        with self._database.read() as connection:
            states = find_states(connection, [one.batch.id for one in known])
        missing = {one.batch.id for one in known} - states.keys()
        live = [one for one in known if one.batch.id in states]
        changed = [one for one in live if states[one.batch.id][1] != one.batch.version]
        others = [one for one in live if one not in changed and not one.batch.state.is_terminal]
        ends_at, sightings = monotonic_seconds() + _COUNTING_SECONDS, []
        for one in [*changed, *others]:
            if monotonic_seconds() >= ends_at:
                break
            if found := self.sight(one.batch.tenant_id, one.batch.id):
                sightings.append(found)
        return sightings, missing

    def sight(self, tenant_id: str, batch_id: str) -> BatchSighting | None:
        """The tenant's batch as it is now, or None. Reads the database: not for an event loop."""
        moment = self.room.clock()
        with self._database.read() as connection:
            batch = find_batch(connection, tenant_id, batch_id)
        return None if batch is None else BatchSighting(batch, self._outlooks.of(batch), moment)
