"""Who sends a body sends it without long silences, so that nobody holds the places for bodies by sending nothing."""

import asyncio
from dataclasses import dataclass

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from common.clock import monotonic_seconds
from common.domain.errors import Refusal


class TooSlow(Refusal):
    """The body of a request comes too slowly; whoever sends it again may be quicker."""

    code = "request_timeout"
    retryable = True


@dataclass(frozen=True, slots=True)
class Pace:
    """How slowly a body may come: no silence of `silence_seconds`, and `least_bytes` in each `window_seconds`."""

    silence_seconds: float = 20.0
    window_seconds: float = 30.0
    least_bytes: int = 64 << 10


class BodyPace:
    """Refuses a body that comes more slowly than that: 408 (`request_timeout`), and the connection is closed.

    Only the time counts that somebody waits for the body, not that which we take to write down what came.
    """

    def __init__(self, app: ASGIApp, pace: Pace = Pace()) -> None:
        self._app = app
        self._pace = pace

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See the class."""
        paced = _Paced(receive, self._pace) if scope["type"] == "http" else None
        await self._app(scope, paced.receive if paced else receive, send)


class _Paced:
    """The receiving side of one request."""

    def __init__(self, receive: Receive, pace: Pace) -> None:
        self._receive = receive
        self._pace = pace
        self._is_whole = False
        self._waited_seconds = 0.0
        self._bytes = 0

    async def receive(self) -> Message:
        """The next part of the body; after its end whatever comes, however late. Raises `TooSlow`."""
        if self._is_whole:
            return await self._receive()
        began = monotonic_seconds()
        try:
            async with asyncio.timeout(self._pace.silence_seconds):
                message = await self._receive()
        except TimeoutError:
            raise _too_slow(f"nothing of it came for {self._pace.silence_seconds:g} seconds") from None
        self._is_whole = not message.get("more_body", False)
        if not self._is_whole:
            self._note(len(message.get("body", b"")), monotonic_seconds() - began)
        return message

    def _note(self, bytes_: int, seconds: float) -> None:
        self._bytes += bytes_
        self._waited_seconds += seconds
        if self._waited_seconds < self._pace.window_seconds:
            return
        if self._bytes < self._pace.least_bytes:
            raise _too_slow(
                f"less than {self._pace.least_bytes} bytes of it came in {self._waited_seconds:.0f} seconds"
            )
        self._bytes, self._waited_seconds = 0, 0.0


def _too_slow(what: str) -> TooSlow:
    return TooSlow(f"the body comes too slowly: {what}; send it again")
