"""The sending half of a stream's connection: nobody who takes nothing may hold it for long."""

import asyncio
from typing import Final, Protocol

from starlette.types import Scope, Send

EXTENSION: Final = "darkroom.connection"


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
    """Sends parts of one response. `stall_seconds`: how long a part may wait for its reader."""

    __slots__ = ("_connection", "_send", "_stall_seconds")

    def __init__(self, scope: Scope, send: Send, stall_seconds: float) -> None:
        self._send = send
        self._stall_seconds = stall_seconds
        self._connection: Connection | None = scope.get("extensions", {}).get(EXTENSION)

    async def start(self, status: int, headers: list[tuple[bytes, bytes]]) -> None:
        """Send status and headers."""
        if self._connection is not None:
            self._connection.narrow()
        await self._send({"type": "http.response.start", "status": status, "headers": headers})

    async def write(self, body: bytes, *, is_last: bool = False) -> None:
        """Send a part of the body. Raises `Stalled` when it is not taken in time."""
        try:
            async with asyncio.timeout(self._stall_seconds):
                await self._send({"type": "http.response.body", "body": body, "more_body": not is_last})
        except TimeoutError:
            raise Stalled from None

    def cut(self, after_seconds: float = 0.0) -> None:
        """End the connection where it then stands; harmless to one that has ended."""
        if self._connection is not None:
            asyncio.get_running_loop().call_later(after_seconds, self._connection.abort)
