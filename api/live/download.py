"""Answers that are long: made while they are read, in threads, with no more of them in memory than a piece."""

import asyncio
from collections.abc import Iterator
from typing import Final

import structlog
from anyio import CapacityLimiter, to_thread
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from api.live.connection import Line, Stalled
from api.live.watched import Waiter
from common.domain.errors import Unavailable
from common.storage.port import StoreError

_PIECE_BYTES: Final = 256 << 10
_CUT_SECONDS: Final = 1.0

_log = structlog.get_logger()


class Download(Response):
    """Sends what `pieces` yields. Between two pieces it holds neither a thread nor, if `pieces` does not, a connection.

    A reader that takes 64 kB of nothing for `stall_seconds` is cut off. What goes wrong before the first piece is
    raised; after that the connection is cut, so that nobody takes half an answer for a whole one.
    """

    def __init__(
        self,
        pieces: Iterator[bytes],
        *,
        media_type: str,
        threads: CapacityLimiter,
        stall_seconds: float,
        headers: dict[str, str] | None = None,
        is_head: bool = False,
    ) -> None:
        super().__init__(media_type=media_type, headers=headers)
        del self.headers["content-length"]
        self._pieces = pieces
        self._threads = threads
        self._stall_seconds = stall_seconds
        self._is_head = is_head

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See the class."""
        line, waiter = Line(scope, send, self._stall_seconds, is_bulk=True), Waiter()
        if self._is_head:
            await line.start(self.status_code, self.raw_headers)
            await line.write(b"", is_last=True)
            return
        client = asyncio.ensure_future(waiter.watch_client(receive))
        try:
            await self._run(line, waiter)
        except Stalled:
            _log.info("download.stalled")
            line.cut()
            await asyncio.wait([client], timeout=_CUT_SECONDS)
            raise ClientDisconnect from None
        finally:
            client.cancel()
            if close := getattr(self._pieces, "close", None):
                close()

    async def _run(self, line: Line, waiter: Waiter) -> None:
        piece = await self._next()
        await line.start(self.status_code, self.raw_headers)
        while piece:
            await line.write(piece)
            if waiter.has_left:
                raise ClientDisconnect
            try:
                piece = await self._next()
            except (Unavailable, StoreError) as error:
                _log.warning("download.cut_short", detail=str(error))
                line.cut()
                raise ClientDisconnect from None
        await line.write(b"", is_last=True)

    async def _next(self) -> bytes:
        return await to_thread.run_sync(_gather, self._pieces, limiter=self._threads)


def _gather(pieces: Iterator[bytes]) -> bytes:
    """The next pieces, together a quarter of a megabyte or somewhat more; empty at the end."""
    gathered, size = [], 0
    for piece in pieces:
        gathered.append(piece)
        size += len(piece)
        if size >= _PIECE_BYTES:
            break
    return b"".join(gathered)
