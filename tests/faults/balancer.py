"""A small TCP balancer: new connections go to those APIs whose readiness probe is good, as a load balancer does it."""

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from itertools import count
from typing import Final

from tests.faults.on_a_loop import OnALoop

_CHECK_SECONDS: Final = 0.1
_ANSWER_SECONDS: Final = 2.0
_PIECE_BYTES: Final = 1 << 16
_PROBE: Final = b"GET /readyz HTTP/1.1\r\nHost: balancer\r\nConnection: close\r\n\r\n"


class Balancer(OnALoop):
    """Listens on `port` of 127.0.0.1 and spreads connections over those of `ports` that were ready at the last look.

    Looks ten times a second. A context manager with a thread of its own. It knows nothing of HTTP but the probe: it
    repeats nothing, and what an API does to a connection its client sees.
    """

    def __init__(self, ports: Sequence[int]) -> None:
        super().__init__("balancer")
        self._ports = ports
        self._ready: set[int] = set()
        self._turn = count()
        self._tasks: set[asyncio.Task[None]] = set()
        self.port = 0

    @property
    def url(self) -> str:
        """Where clients connect."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def ready(self) -> frozenset[int]:
        """The ports that get new connections now."""
        return frozenset(self._ready)

    async def _begin(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        for port in self._ports:
            task = asyncio.ensure_future(self._watch(port))
            self._tasks.add(task)

    async def _end(self) -> None:
        self._server.close()
        mine = asyncio.current_task()
        others = [task for task in asyncio.all_tasks() if task is not mine]
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    async def _watch(self, port: int) -> None:
        while True:
            is_ready = False
            with suppress(OSError, TimeoutError):
                is_ready = await asyncio.wait_for(_is_ready(port), _ANSWER_SECONDS)
            (self._ready.add if is_ready else self._ready.discard)(port)
            await asyncio.sleep(_CHECK_SECONDS)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while not self._ready:
                await asyncio.sleep(_CHECK_SECONDS)
            chosen = sorted(self._ready)
            answers, upstream = await asyncio.open_connection("127.0.0.1", chosen[next(self._turn) % len(chosen)])
            await asyncio.gather(_pump(reader, upstream), _pump(answers, writer))
        writer.close()


async def _is_ready(port: int) -> bool:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(_PROBE)
        return b" 200 " in await reader.readline()
    finally:
        writer.close()


async def _pump(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
    """One direction to its end, which is passed on."""
    try:
        while data := await source.read(_PIECE_BYTES):
            target.write(data)
            await target.drain()
    finally:
        target.close()
