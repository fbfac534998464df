"""A job that somebody waits for, and who waits. For the event loop alone: nothing here is locked."""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from math import inf
from typing import Final

from starlette.types import Receive

from common.domain.errors import DarkroomError
from common.domain.outlook import UNKNOWN, Outlook
from common.domain.snapshot import JobSnapshot
from common.domain.watching import JobEvent, Mark, mark_of

_KEPT_EVENTS: Final = 50


@dataclass(frozen=True, slots=True)
class Sighting:
    """A job as one look saw it at `seen_at` (the clock of the event loop), with the newest of its transitions."""

    job: JobSnapshot
    events: Sequence[JobEvent]
    outlook: Outlook
    seen_at: float


class Waiter:
    """One connection that waits: woken by news, by its client's leaving, and when the process stops.

    `at_closing` is called then, too: who hangs in a write does not look whether it was woken.
    """

    __slots__ = ("_event", "at_closing", "has_left")

    def __init__(self) -> None:
        self._event = asyncio.Event()
        self.has_left = False
        self.at_closing: Callable[[], None] | None = None

    def wake(self) -> None:
        """There is something to look at."""
        self._event.set()

    def close(self) -> None:
        """The process stops."""
        if self.at_closing is not None:
            self.at_closing()
        self.wake()

    async def wait(self, seconds: float) -> None:
        """Return when woken since the last wait, or after so many seconds."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._event.wait()
        self._event.clear()

    async def watch_client(self, receive: Receive) -> None:
        """Until the client is gone, which wakes us; to be run as a task."""
        try:
            with suppress(DarkroomError):  # a body beyond the limit, sent where none is read
                while (await receive())["type"] != "http.disconnect":
                    pass
        finally:
            self.has_left = True
            self.wake()


@dataclass(slots=True, eq=False)
class Watched:
    """What all waiters of one job share: the newest snapshot, and the transitions that led to it.

    `events` are without gaps and end with the snapshot's version; how far they reach back is not promised. `is_gone`:
    there is no such job any more. `idle_since`: when the last waiter left, None while there is one. `doubted_at`: what
    was seen before is known to be wrong.
    """

    job: JobSnapshot
    mark: Mark
    seen_at: float
    outlook: Outlook = UNKNOWN
    is_gone: bool = False
    idle_since: float | None = None
    doubted_at: float = -inf
    events: deque[JobEvent] = field(default_factory=lambda: deque(maxlen=_KEPT_EVENTS))
    waiters: set[Waiter] = field(default_factory=set)

    @classmethod
    def of(cls, sighting: Sighting) -> "Watched":
        """A job that was looked at just now."""
        watched = cls(sighting.job, mark_of(sighting.job), sighting.seen_at, sighting.outlook)
        watched.events.extend(sighting.events)
        return watched

    @property
    def is_over(self) -> bool:
        """True when nothing of this job will change any more that somebody may see."""
        return self.is_gone or self.mark.is_erased or self.job.state.is_terminal

    def take(self, job: JobSnapshot, events: Sequence[JobEvent], seen_at: float) -> bool:
        """The result of a look, unless a newer one is known; wakes the waiters. Returns whether it was news."""
        mark = mark_of(job)
        if mark == self.mark or mark.is_older_than(self.mark):
            return False
        self._append([event for event in events if self.mark.version < event.version <= job.version], job.version)
        self.job, self.mark, self.seen_at = job, mark, seen_at
        self.wake()
        return True

    def expect(self, outlook: Outlook) -> None:
        """What the job may expect now; wakes the waiters when its place in the queue is another one."""
        is_moved = (outlook.position, outlook.is_lower_bound) != (self.outlook.position, self.outlook.is_lower_bound)
        self.outlook = outlook
        if is_moved:
            self.wake()

    def events_after(self, version: int) -> list[JobEvent] | None:
        """The transitions since `version`, None when they reach back further than is known here."""
        if version >= self.job.version:
            return []
        if not self.events or self.events[0].version > version + 1:
            return None
        return [event for event in self.events if event.version > version]

    def lose(self) -> None:
        """The job has no row any more."""
        self.is_gone = True
        self.wake()

    def wake(self) -> None:
        """Wake everybody who waits for this job."""
        for waiter in self.waiters:
            waiter.wake()

    def _append(self, events: Sequence[JobEvent], version: int) -> None:
        if events and self.events and events[0].version != self.events[-1].version + 1:
            self.events.clear()
        self.events.extend(events)
        if self.events and self.events[-1].version != version:
            self.events.clear()
