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
from api.live.room import WaitingRoom
from api.live.watched import Waiter
from common.clock import monotonic_seconds
from common.domain.errors import Unavailable
from common.storage.port import StoreError

_PIECE_BYTES: Final = 256 << 10
_TURN_SECONDS: Final = 0.25
_CUT_SECONDS: Final = 1.0

_log = structlog.get_logger()


class Download(Response):
    """Sends what `pieces` yields, while it has a place in `room`. It is made in turns of a quarter of a second, which
    empty pieces end too; between two turns it holds neither a thread nor, if `pieces` does not, a connection.

    A reader that takes 64 kB of nothing for `stall_seconds` is cut off. What goes wrong in the first turn is raised,
    `Unavailable` too when there is no place; after that turn the head is sent, and what goes wrong cuts the connection,
    so that nobody takes half an answer for a whole one.
    """

    def __init__(
        self,
        pieces: Iterator[bytes],
        *,
        media_type: str,
        room: WaitingRoom,
        threads: CapacityLimiter,
        stall_seconds: float,
        headers: dict[str, str] | None = None,
        is_head: bool = False,
    ) -> None:
        super().__init__(media_type=media_type, headers=headers)
        del self.headers["content-length"]
        self._pieces = pieces
        self._room = room
        self._threads = threads
        self._stall_seconds = stall_seconds
        self._is_head = is_head

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See the class."""
        line = Line(scope, send, self._stall_seconds, is_bulk=True)
        if self._is_head:
            await line.start(self.status_code, self.raw_headers)
            await line.write(b"", is_last=True)
            return
        with self._room.seat("download") as waiter:
            await self._serve(line, waiter, receive)

    async def _serve(self, line: Line, waiter: Waiter, receive: Receive) -> None:
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
        piece, is_last = await self._take_turn(waiter)
        await line.start(self.status_code, self.raw_headers)
        while not is_last:
            if piece:
                await line.write(piece)
            try:
                piece, is_last = await self._take_turn(waiter)
            except (Unavailable, StoreError) as error:
                _log.warning("download.cut_short", detail=str(error))
                line.cut()
                raise ClientDisconnect from None
        await line.write(piece, is_last=True)

    async def _take_turn(self, waiter: Waiter) -> tuple[bytes, bool]:
        """What one turn makes, and whether it is the last. Raises `ClientDisconnect` when nobody wants it any more."""
        turn = await to_thread.run_sync(_gather, self._pieces, waiter, limiter=self._threads)
        if waiter.has_left:
            raise ClientDisconnect
        return turn


def _gather(pieces: Iterator[bytes], waiter: Waiter) -> tuple[bytes, bool]:
    """The next pieces, together a quarter of a megabyte or somewhat more, or what there is when the time of a turn is
    up or the client gone, which may have been while this waited for a thread; and whether that is the end.
    """
    gathered: list[bytes] = []
    size, ends_at = 0, monotonic_seconds() + _TURN_SECONDS
    while size < _PIECE_BYTES and not waiter.has_left and monotonic_seconds() < ends_at:
        piece = next(pieces, None)
        if piece is None:
            return b"".join(gathered), True
        gathered.append(piece)
        size += len(piece)
    return b"".join(gathered), False
