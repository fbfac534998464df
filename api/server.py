"""The HTTP server around the app: uvicorn, told once how."""

from asyncio import Transport
from contextlib import suppress
from dataclasses import dataclass
from signal import SIGINT
from socket import SO_SNDBUF, SOL_SOCKET
from socket import socket as Socket  # noqa: N812 - a type here
from threading import Event
from types import FrameType
from typing import Any, Final

import structlog
import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.h11_impl import H11Protocol

from api.descriptors import raise_limit
from api.live.connection import EXTENSION
from common.clock import monotonic_seconds
from common.settings import Settings

_GRACE_SECONDS: Final = 30
_KEEP_ALIVE_SECONDS: Final = 20
_MAX_HEADER_BYTES: Final = 64 << 10
_NARROW_BYTES: Final = 8 << 10

_log = structlog.get_logger()


class Server(uvicorn.Server):
    """Says where it listens, and says that it is draining as soon as a signal asks it to stop."""

    def __init__(self, config: uvicorn.Config, draining: Event, linger_seconds: float) -> None:
        super().__init__(config)
        self._draining = draining
        self._linger_seconds = linger_seconds
        self._leaves_at = 0.0

    async def startup(self, sockets: list[Socket] | None = None) -> None:
        """Also logs the address, with the port that the system chose for port 0."""
        await super().startup(sockets)
        for server in self.servers if self.started else ():
            for socket in server.sockets:
                _announce(*socket.getsockname()[:2])

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """The readiness probe turns first, and requests are taken on for a while, until load balancers have noticed. A
        second SIGINT does not wait for requests in flight.

        uvicorn would send the signal to itself again at the end; a stop in good order ends with 0 here.
        """
        if not self._draining.is_set():
            self._leaves_at = monotonic_seconds() + self._linger_seconds
        self._draining.set()
        self.force_exit = self.should_exit and sig == SIGINT
        self.should_exit = True

    async def on_tick(self, counter: int) -> bool:
        """Whether to stop now; asked ten times a second."""
        is_over = await super().on_tick(counter)
        return is_over and (self.force_exit or monotonic_seconds() >= self._leaves_at)


class HttpProtocol(H11Protocol):
    """Hands every request its `api.live.connection.Connection`.

    h11 and not httptools: it bounds the header, which uvicorn's other parser does not.
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._served = self.app
        self.app = self._serve

    async def _serve(self, scope: Any, receive: Any, send: Any) -> None:
        scope.setdefault("extensions", {})[EXTENSION] = _HttpConnection(self.transport)
        await self._served(scope, receive, send)


@dataclass(frozen=True, slots=True)
class _HttpConnection:
    transport: Transport

    def narrow(self) -> None:
        if self.transport.is_closing():
            return
        with suppress(RuntimeError, OSError):  # closed just now: uvloop says the one, asyncio the other
            self._narrow()

    def _narrow(self) -> None:
        self.transport.set_write_buffer_limits(high=_NARROW_BYTES)
        self.transport.get_extra_info("socket").setsockopt(SOL_SOCKET, SO_SNDBUF, _NARROW_BYTES)

    def abort(self) -> None:
        self.transport.abort()


def run_server(app: FastAPI, settings: Settings, draining: Event) -> bool:
    """Serve until a signal; requests in flight get 30 seconds. False when the app could not start.

    Lets this process, and those that it starts, open as many files as the system allows it.
    """
    raise_limit()
    config = uvicorn.Config(
        app,
        host=settings.host,
        port=settings.port,
        http=HttpProtocol,
        ws="none",
        lifespan="on",
        h11_max_incomplete_event_size=_MAX_HEADER_BYTES,
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=_KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=_GRACE_SECONDS,
    )
    server = Server(config, draining, settings.linger_seconds)
    server.run()
    return server.started


def _announce(host: str, port: int) -> None:
    shown = f"[{host}]" if ":" in host else host
    _log.info("api.listening", url=f"http://{shown}:{port}", host=host, port=port)
