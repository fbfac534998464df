"""The sending half of a stream's connection: nobody who takes nothing may hold it for long."""

import asyncio
from typing import Final, Protocol

from starlette.types import Scope, Send

EXTENSION: Final = "darkroom.connection"

_PIECE_BYTES: Final = 8 << 10
_BULK_PIECE_BYTES: Final = 64 << 10


class Connection(Protocol):
    """What a server lets us do to the connection of a request, see `api.server`."""

    def narrow(self) -> None:
        """Buffer a few kilobytes at most, so that what is sent is news and a reader that stopped is noticed.

        There is no way back: the connection is to be closed after the answer.
        """

    def abort(self) -> None:
        """Cut it, with what is still to be sent. To close it in good order would be to wait for its reader."""


class Stalled(Exception):
    """The reader has taken nothing for too long."""


class Line:
    """Sends parts of one response. `stall_seconds`: how long 8 kB of it may wait for their reader.

    `is_bulk`: it is no news but much of it. Buffers stay as they are, and it is 64 kB that may wait so long.
    """

    __slots__ = ("_connection", "_is_bulk", "_send", "_stall_seconds")

    def __init__(self, scope: Scope, send: Send, stall_seconds: float, *, is_bulk: bool = False) -> None:
        self._send = send
        self._stall_seconds = stall_seconds
        self._is_bulk = is_bulk
        self._connection: Connection | None = scope.get("extensions", {}).get(EXTENSION)

    async def start(self, status: int, headers: list[tuple[bytes, bytes]]) -> None:
        """Send status and headers."""
        if self._connection is not None and not self._is_bulk:
            self._connection.narrow()
        await self._send({"type": "http.response.start", "status": status, "headers": headers})

    async def write(self, body: bytes, *, is_last: bool = False) -> None:
        """Send a part of the body, however slowly it is taken. Raises `Stalled` when nothing of it is for too long."""
        size = _BULK_PIECE_BYTES if self._is_bulk else _PIECE_BYTES
        for start in range(0, len(body), size):
            await self._write_piece(body[start : start + size], is_last=False)
        if is_last:
            await self._write_piece(b"", is_last=True)

    async def _write_piece(self, piece: bytes, *, is_last: bool) -> None:
        try:
            async with asyncio.timeout(self._stall_seconds):
                await self._send({"type": "http.response.body", "body": piece, "more_body": not is_last})
        except TimeoutError:
            raise Stalled from None

    def cut(self, after_seconds: float = 0.0) -> None:
        """End the connection where it then stands; harmless to one that has ended."""
        if self._connection is not None:
            asyncio.get_running_loop().call_later(after_seconds, self._connection.abort)
