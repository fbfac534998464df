"""The event stream of a job as a response: plain ASGI, one task for the connection and one that sees it end."""

import asyncio
from collections.abc import Sequence
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


class EventStream(Response):
    """Tells one client about one job until the job is over, the client is gone or the time of a stream is up.

    It holds no events: each turn takes from the shared state of the job what is newer than what it has told. Raises
    `Unavailable` before anything is sent when there is no place.
    """

    media_type = "text/event-stream"

    def __init__(self, means: Means, sighting: Sighting, telling: Telling, *, is_head: bool = False) -> None:
        super().__init__(headers=_HEADERS)
        del self.headers["content-length"]
        self._means = means
        self._sightings = [sighting]  # taken out when it is used: an idle stream holds no snapshot of its own
        self._telling = telling
        self._is_head = is_head

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See the class."""
        line = Line(scope, send, self._means.settings.stream_stall_seconds)
        with self._means.room.waiting("stream", self._sightings.pop()) as (watched, waiter):
            waiter.at_closing = lambda: line.cut(_FLUSH_SECONDS)
            client = asyncio.ensure_future(waiter.watch_client(receive))
            try:
                await self._run(line, watched, waiter)
            except Stalled:
                _log.info("stream.stalled", job_id=watched.job.id)
                line.cut()
                await asyncio.wait([client], timeout=_CUT_SECONDS)
                raise ClientDisconnect from None
            finally:
                client.cancel()

    async def _run(self, line: Line, watched: Watched, waiter: Waiter) -> None:
        news = await self._news(watched)
        await line.start(self.status_code, self.raw_headers)
        if self._is_head:
            await line.write(b"", is_last=True)
            return
        try:
            await self._tell(line, watched, waiter, GREETING + news)
        except Unavailable as error:  # of history: whoever comes back finds it again
            _log.warning("stream.cut_short", job_id=watched.job.id, detail=error.detail)
        if waiter.has_left:
            return
        await line.write(b"", is_last=True)
        line.cut(self._means.settings.stream_stall_seconds)

    async def _tell(self, line: Line, watched: Watched, waiter: Waiter, news: bytes) -> None:
        """Until there is no more to be told, or nobody to tell it to."""
        clock, settings = asyncio.get_running_loop().time, self._means.settings
        ends_at = clock() + settings.stream_seconds
        pings_at = clock() + settings.stream_ping_seconds
        while True:
            if news:
                await line.write(news)
                pings_at = clock() + settings.stream_ping_seconds
            if waiter.has_left or self._is_at_its_end(watched) or clock() >= ends_at:
                return
            news = await self._news(watched) or (PING if clock() >= pings_at else b"")
            if not news and not self._telling.is_over:
                await waiter.wait(max(0.0, min(pings_at, ends_at) - clock()))

    def _is_at_its_end(self, watched: Watched) -> bool:
        return self._telling.is_over or watched.is_gone or self._means.room.is_closing

    async def _news(self, watched: Watched) -> bytes:
        """What is newer than what has been told, a page of it at most."""
        telling, job, outlook = self._telling, watched.job, watched.outlook
        after = telling.wanted_after(job)
        events: Sequence[JobEvent] | None = watched.events_after(after)
        if events is None:
            events = await to_thread.run_sync(self._read_history, job.id, after, job.version)
        return telling.tell(job, events[:_PAGE], outlook, utc_now())

    def _read_history(self, job_id: str, after: int, until: int) -> list[JobEvent]:
        with self._means.database.read() as connection:
            return read_events(connection, job_id, after=after, until=until, limit=_PAGE)
