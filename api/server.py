"""The HTTP server around the app: uvicorn, told once how."""

from signal import SIGINT
from socket import socket as Socket  # noqa: N812 - a type here
from threading import Event
from types import FrameType
from typing import Final

import structlog
import uvicorn
from fastapi import FastAPI

from common.settings import Settings

_GRACE_SECONDS: Final = 30
_KEEP_ALIVE_SECONDS: Final = 20
_MAX_HEADER_BYTES: Final = 64 << 10

_log = structlog.get_logger()


class Server(uvicorn.Server):
    """Says where it listens, and says that it is draining as soon as a signal asks it to stop."""

    def __init__(self, config: uvicorn.Config, draining: Event) -> None:
        super().__init__(config)
        self._draining = draining

    async def startup(self, sockets: list[Socket] | None = None) -> None:
        """Also logs the address, with the port that the system chose for port 0."""
        await super().startup(sockets)
        for server in self.servers if self.started else ():
            for socket in server.sockets:
                _announce(*socket.getsockname()[:2])

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """The readiness probe turns first. A second SIGINT does not wait for requests in flight.

        uvicorn would send the signal to itself again at the end; a stop in good order ends with 0 here.
        """
        self._draining.set()
        self.force_exit = self.should_exit and sig == SIGINT
        self.should_exit = True


def run_server(app: FastAPI, settings: Settings, draining: Event) -> bool:
    """Serve until a signal; requests in flight get 30 seconds. False when the app could not start.

    h11 and not httptools: it bounds the header, which uvicorn's other parser does not.
    """
    config = uvicorn.Config(
        app,
        host=settings.host,
        port=settings.port,
        http="h11",
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
    server = Server(config, draining)
    server.run()
    return server.started


def _announce(host: str, port: int) -> None:
    shown = f"[{host}]" if ":" in host else host
    _log.info("api.listening", url=f"http://{shown}:{port}", host=host, port=port)
