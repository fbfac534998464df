"""Where connections wait for jobs: who waits for which, how many there may be, and their common end."""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from threading import Event
from typing import Final, Literal

from api.live.watched import Sighting, Waiter, Watched
from api.metrics import Metrics
from common.clock import monotonic_seconds
from common.domain.errors import Unavailable

Kind = Literal["stream", "poll", "download"]

_FRESH_SECONDS: Final = 0.5
# Who polls again and again comes back at once, and finds the job still watched.
_LINGER_SECONDS: Final = 2.0
_LOOK_WAIT_SECONDS: Final = 1.5
_DRAIN_LOOK_SECONDS: Final = 0.1


class WaitingRoom:
    """The jobs that somebody waits for, by id. For the event loop alone.

    `clock` gives monotonic seconds. `is_blind`: the newest look failed.
    """

    def __init__(self, max_waiters: int, metrics: Metrics, clock: Callable[[], float] = monotonic_seconds) -> None:
        self.is_closing = False
        self.is_blind = False
        self.clock = clock
        self.jobs: dict[str, Watched] = {}
        self._max_waiters = max_waiters
        self._metrics = metrics
        self._seated: set[Waiter] = set()
        self._count = 0
        self._somebody = asyncio.Event()
        self._looked = asyncio.Event()

    @property
    def is_full(self) -> bool:
        """True when nobody else may wait."""
        return len(self._seated) >= self._max_waiters

    @contextmanager
    def waiting(self, kind: Kind, sighting: Sighting) -> Iterator[tuple[Watched, Waiter]]:
        """A place for one connection and the job that it waits for. Raises `Unavailable` when all places are taken."""
        with self.seat(kind) as waiter:
            watched = self._watch(sighting)
            del sighting  # an idle connection holds no snapshot of its own
            self._count += 1
            watched.waiters.add(waiter)
            watched.idle_since = None
            self._somebody.set()
            try:
                yield watched, waiter
            finally:
                self._count -= 1
                watched.waiters.discard(waiter)
                watched.idle_since = None if watched.waiters else self.clock()

    @contextmanager
    def seat(self, kind: Kind) -> Iterator[Waiter]:
        """One of the places, whatever is waited for. Raises `Unavailable` when all are taken."""
        if self.is_full:
            raise Unavailable("too many clients are served here at once")
        waiter = Waiter()
        self._seated.add(waiter)
        self._metrics.count_waiter(kind, 1)
        try:
            yield waiter
        finally:
            self._seated.discard(waiter)
            self._metrics.count_waiter(kind, -1)

    async def await_fresh(self, tenant_id: str, job_id: str) -> Sighting | None:
        """This tenant's job if it is watched, by a look of the last half second or by the next one.

        So hundreds that come at once, as after a minute of polls, cost no read of their own. None when it is not
        watched, or nobody looks just now.
        """
        found = self.find_fresh(tenant_id, job_id)
        will_be_seen = self._count > 0 and not self.is_blind and self._watched_by(tenant_id, job_id) is not None
        if found is None and will_be_seen:
            with suppress(TimeoutError):
                async with asyncio.timeout(_LOOK_WAIT_SECONDS):
                    await self._looked.wait()
            found = self.find_fresh(tenant_id, job_id)
        return found

    def find_fresh(self, tenant_id: str, job_id: str) -> Sighting | None:
        """This tenant's job if it was looked at within half a second."""
        watched = self._watched_by(tenant_id, job_id)
        if watched is None or watched.seen_at <= watched.doubted_at:
            return None
        if self.clock() - watched.seen_at >= _FRESH_SECONDS:
            return None
        return Sighting(watched.job, (), watched.outlook, watched.seen_at)

    def note_look(self, *, has_failed: bool = False) -> None:
        """All watched jobs have been looked at, or could not be."""
        self.is_blind = has_failed
        self._looked.set()
        self._looked = asyncio.Event()

    def doubt(self, job_id: str) -> None:
        """The job was just changed by a client of this process: what was seen of it until now is fresh no more.

        May be called from any thread.
        """
        if watched := self.jobs.get(job_id):
            watched.doubted_at = self.clock()

    async def until_somebody_waits(self) -> None:
        """Return once there is a job to look at; what nobody has waited for since a while is forgotten."""
        if not self._count:
            self.jobs.clear()
            self._somebody.clear()
        await self._somebody.wait()
        cutoff = self.clock() - _LINGER_SECONDS
        for job_id in [name for name, watched in self.jobs.items() if (watched.idle_since or cutoff) < cutoff]:
            del self.jobs[job_id]

    def close(self) -> None:
        """Let everybody go: streams end, and long polls answer what is known."""
        self.is_closing = True
        for waiter in self._seated:
            waiter.close()

    async def close_after(self, draining: Event, linger_seconds: float) -> None:
        """Close so many seconds after the process was asked to stop; to be run as a task."""
        while not draining.is_set():
            await asyncio.sleep(_DRAIN_LOOK_SECONDS)
        await asyncio.sleep(linger_seconds)
        self.close()

    def _watched_by(self, tenant_id: str, job_id: str) -> Watched | None:
        watched = self.jobs.get(job_id)
        is_theirs = watched is not None and watched.job.tenant_id == tenant_id
        return watched if watched and is_theirs and not watched.is_gone and not watched.mark.is_erased else None

    def _watch(self, sighting: Sighting) -> Watched:
        watched = self.jobs.get(sighting.job.id)
        if watched is None or watched.is_gone:
            watched = self.jobs[sighting.job.id] = Watched.of(sighting)
        else:
            watched.take(sighting.job, sighting.events, sighting.seen_at)
        return watched
