"""Event streams as responses: plain ASGI, one task for the connection and one that sees it end."""

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Final

import structlog
from anyio import to_thread
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from api.live.connection import Line, Stalled
from api.live.room import WaitingRoom
from api.live.telling import GREETING, PING, Telling
from api.live.watched import Sighting, Waiter, Watched
from common.clock import utc_now
from common.db.engine import Database
from common.db.watching import read_events
from common.domain.errors import Unavailable
from common.domain.watching import JobEvent
from common.settings import Settings

CONTENT_TYPE: Final = "text/event-stream; charset=utf-8"
# The connection has been made narrow: it is of no use for anything else.
_HEADERS: Final = {"Cache-Control": "no-store", "X-Accel-Buffering": "no", "Connection": "close"}
_PAGE: Final = 100
_FLUSH_SECONDS: Final = 2.0
_CUT_SECONDS: Final = 1.0

_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Means:
    """What streams work with: where they wait, how long for what, and the database for history."""

    settings: Settings
    database: Database
    room: WaitingRoom


class LiveStream(Response):
    """Tells one client what is new until there is no more to tell, the client is gone or the time of a stream is up.

    It holds no events: each turn takes what is newer than what it has told. `label` names in the log what it tells of.
    Raises `Unavailable` before anything is sent when there is no place.
    """

    media_type = "text/event-stream"

    def __init__(self, settings: Settings, room: WaitingRoom, label: dict[str, str], *, is_head: bool = False) -> None:
        super().__init__(headers=_HEADERS)
        del self.headers["content-length"]
        self._settings = settings
        self._room = room
        self._label = label
        self._is_head = is_head

    def waiting(self) -> AbstractContextManager[Waiter]:
        """A place for this connection, and what it is woken by."""
        raise NotImplementedError

    async def news(self) -> bytes:
        """What is newer than what has been told, some of it at least; empty when nothing is."""
        raise NotImplementedError

    def is_told(self) -> bool:
        """Whether everything has been told."""
        raise NotImplementedError

    def is_gone(self) -> bool:
        """Whether what this tells of is there no more."""
        raise NotImplementedError

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See the class."""
        line = Line(scope, send, self._settings.stream_stall_seconds)
        with self.waiting() as waiter:
            waiter.at_closing = lambda: line.cut(_FLUSH_SECONDS)
            client = asyncio.ensure_future(waiter.watch_client(receive))
            try:
                await self._run(line, waiter)
            except Stalled:
                _log.info("stream.stalled", **self._label)
                line.cut()
                await asyncio.wait([client], timeout=_CUT_SECONDS)
                raise ClientDisconnect from None
            finally:
                client.cancel()

    async def _run(self, line: Line, waiter: Waiter) -> None:
        news = await self.news()
        await line.start(self.status_code, self.raw_headers)
        if self._is_head:
            await line.write(b"", is_last=True)
            return
        try:
            await self._tell(line, waiter, GREETING + news)
        except Unavailable as error:  # of history: whoever comes back finds it again
            _log.warning("stream.cut_short", **self._label, detail=error.detail)
        if waiter.has_left:
            return
        await line.write(b"", is_last=True)
        line.cut(self._settings.stream_stall_seconds)

    async def _tell(self, line: Line, waiter: Waiter, news: bytes) -> None:
        """Until there is no more to be told, or nobody to tell it to."""
        clock, settings = asyncio.get_running_loop().time, self._settings
        ends_at = clock() + settings.stream_seconds
        pings_at = clock() + settings.stream_ping_seconds
        while True:
            if news:
                await line.write(news)
                pings_at = clock() + settings.stream_ping_seconds
            if waiter.has_left or self._is_at_its_end() or clock() >= ends_at:
                return
            news = await self.news() or (PING if clock() >= pings_at else b"")
            if not news and not self.is_told():
                await waiter.wait(max(0.0, min(pings_at, ends_at) - clock()))

    def _is_at_its_end(self) -> bool:
        return self.is_told() or self.is_gone() or self._room.is_closing


class EventStream(LiveStream):
    """The events of a job, until it is over."""

    _watched: Watched

    def __init__(self, means: Means, sighting: Sighting, telling: Telling, *, is_head: bool = False) -> None:
        super().__init__(means.settings, means.room, {"job_id": sighting.job.id}, is_head=is_head)
        self._means = means
        self._sightings = [sighting]  # taken out when it is used: an idle stream holds no snapshot of its own
        self._telling = telling

    @contextmanager
    def waiting(self) -> Iterator[Waiter]:
        """See the base class."""
        with self._means.room.waiting("stream", self._sightings.pop()) as (self._watched, waiter):
            yield waiter

    async def news(self) -> bytes:
        """See the base class; a page of it at most."""
        telling, watched = self._telling, self._watched
        job, outlook = watched.job, watched.outlook
        after = telling.wanted_after(job)
        events: Sequence[JobEvent] | None = watched.events_after(after)
        if events is None:
            events = await to_thread.run_sync(self._read_history, job.id, after, job.version)
        return telling.tell(job, events[:_PAGE], outlook, utc_now())

    def is_told(self) -> bool:
        """See the base class."""
        return self._telling.is_over

    def is_gone(self) -> bool:
        """See the base class."""
        return self._watched.is_gone

    def _read_history(self, job_id: str, after: int, until: int) -> list[JobEvent]:
        with self._means.database.read() as connection:
            return read_events(connection, job_id, after=after, until=until, limit=_PAGE)
