"""Faults on the wire: a TCP proxy in front of a service, which a test turns from good to bad and back at any time."""

import asyncio
import random
import re
import socket
import struct
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any, Final

from tests.faults.on_a_loop import OnALoop

_PIECE_BYTES: Final = 64 * 1024
_REPLY_SECONDS: Final = 2.0
_RESET_ON_CLOSE: Final = struct.pack("ii", 1, 0)


@dataclass(eq=False)
class _Cut:
    """When connections are cut; `left`: how often at most. The probability is drawn at each occasion."""

    pattern: bytes | None = None
    after_bytes: int | None = None
    probability: float = 1.0
    left: int | None = None

    def strikes(self, chance: random.Random) -> bool:
        """Whether this occasion is one that is cut."""
        if self.left == 0 or chance.random() >= self.probability:
            return False
        self.left = None if self.left is None else self.left - 1
        return True


@dataclass(eq=False)
class _Link:
    """One connection of a client, and the one to the service that belongs to it."""

    client: asyncio.StreamWriter
    service: asyncio.StreamWriter | None = None
    flowing: asyncio.Event = field(default_factory=asyncio.Event)
    is_stranded: bool = False
    is_doomed: bool = False
    counted_for: _Cut | None = None
    relayed_bytes: int = 0
    tail: bytes = b""

    def reset(self) -> None:
        """End both halves now, with RST."""
        for writer in (self.client, self.service):
            if writer is not None:
                _reset(writer)


_PassOn = Callable[[_Link, bytes], Coroutine[Any, Any, None]]


class FaultProxy(OnALoop):
    """Listens on `port` of 127.0.0.1 and passes everything on to `upstream_port`, until told otherwise.

    A context manager. Every method may be called from any thread and holds when it returns; faults of several kinds may
    hold together. `cuts` counts the connections that `cut_when` and `cut_after` have cut.
    """

    def __init__(self, upstream_port: int, *, seed: int = 0) -> None:
        super().__init__("fault-proxy")
        self._upstream_port = upstream_port
        self._chance = random.Random(seed)
        self._links: set[_Link] = set()
        self._server: asyncio.Server | None = None
        self._latency_seconds = 0.0
        self._is_blackhole = False
        self._is_resetting = False
        self._cut: _Cut | None = None
        self._canned: tuple[bytes, float] | None = None
        self.cuts = 0
        # Bound and never listening: the port stays ours while connections are refused.
        self._holder = socket.socket()
        self._holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._holder.bind(("127.0.0.1", 0))
        self.port = int(self._holder.getsockname()[1])

    def __exit__(self, *_: object) -> None:
        """End every connection and give the port back."""
        super().__exit__()
        self._holder.close()

    @property
    def connections(self) -> int:
        """How many clients are connected now."""
        return int(self._do(lambda: len(self._links)))

    def latency(self, seconds: float) -> None:
        """Each piece of data, in either direction, is passed on that much later."""
        self._do(lambda: setattr(self, "_latency_seconds", seconds))

    def reset(self) -> None:
        """Reset every connection of this moment; new ones work."""
        self._do(self._reset_all)

    def resetting(self) -> None:
        """Reset every connection, and each new one as soon as it comes."""
        self._do(self._begin_resetting)

    def blackhole(self) -> None:
        """Accept and keep connections, but pass nothing on, in either direction, not even an end."""
        self._do(self._begin_blackhole)

    def strand(self) -> None:
        """Leave the connections of this moment half-open for ever, which not even `heal` mends; new ones work."""
        self._do(self._strand_all)

    def refuse(self) -> None:
        """Reset every connection, and refuse new ones."""
        self._await(self._refuse())

    def cut_after(self, count: int, *, times: int | None = None) -> None:
        """Reset a connection once `count` bytes have gone from the service to its client, counted from now.

        `times`: how often at most. 0 bytes: the request arrives, the answer is lost.
        """
        self._do(lambda: setattr(self, "_cut", _Cut(after_bytes=count, left=times)))

    def cut_when(self, pattern: bytes, *, probability: float = 1.0, times: int | None = None) -> None:
        """Pass on what a client sends with `pattern` in it, and reset the connection in place of the answer.

        The service has done what it was told when the client learns that the connection is gone.
        """
        self._do(lambda: setattr(self, "_cut", _Cut(pattern=pattern, probability=probability, left=times)))

    def answer(self, answer: bytes, *, probability: float = 1.0) -> None:
        """Answer what a client sends with these bytes and an end; it does not reach the service."""
        self._do(lambda: setattr(self, "_canned", (answer, probability)))

    def heal(self) -> None:
        """End every fault; what a blackhole held back is passed on too."""
        self._do(self._forget_faults)
        if self._server is None:
            self._await(self._begin())

    # What follows runs on the proxy's own thread.

    async def _begin(self) -> None:
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", self.port))
        self._server = await asyncio.start_server(self._serve, sock=listener, backlog=256)

    async def _refuse(self) -> None:
        if self._server is not None:
            self._server.close()
        self._server = None
        self._reset_all()

    async def _end(self) -> None:
        await self._refuse()
        while self._links:
            await asyncio.sleep(0)

    def _forget_faults(self) -> None:
        self._latency_seconds, self._cut, self._canned = 0.0, None, None
        self._is_blackhole = self._is_resetting = False
        for link in self._links:
            if not link.is_stranded:
                link.flowing.set()

    def _reset_all(self) -> None:
        for link in self._links:
            link.flowing.set()
            link.reset()

    def _begin_resetting(self) -> None:
        self._is_resetting = True
        self._reset_all()

    def _begin_blackhole(self) -> None:
        self._is_blackhole = True
        for link in self._links:
            link.flowing.clear()

    def _strand_all(self) -> None:
        for link in self._links:
            link.is_stranded = True
            link.flowing.clear()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._is_resetting:
            _reset(writer)
            return
        link = _Link(writer)
        if not self._is_blackhole:
            link.flowing.set()
        self._links.add(link)
        try:
            await link.flowing.wait()
            await self._connect(link, reader)
        except OSError:  # a half is gone, and so is the other
            pass
        finally:
            link.reset()
            self._links.discard(link)

    async def _connect(self, link: _Link, reader: asyncio.StreamReader) -> None:
        answers, link.service = await asyncio.open_connection("127.0.0.1", self._upstream_port)
        up = self._pump(reader, link, link.service, self._pass_up)
        down = self._pump(answers, link, link.client, self._pass_down)
        halves = [asyncio.ensure_future(half) for half in (up, down)]
        try:
            await asyncio.gather(*halves)
            await _close(link.service, link.client)
        finally:
            for half in halves:
                half.cancel()
            await asyncio.gather(*halves, return_exceptions=True)

    async def _pump(
        self, source: asyncio.StreamReader, link: _Link, target: asyncio.StreamWriter, pass_on: _PassOn
    ) -> None:
        """Everything of one direction, then its end."""
        while data := await source.read(_PIECE_BYTES):
            if self._latency_seconds:
                await asyncio.sleep(self._latency_seconds)
            await link.flowing.wait()
            await pass_on(link, data)
        await link.flowing.wait()
        target.write_eof()

    async def _pass_up(self, link: _Link, data: bytes) -> None:
        assert link.service is not None
        if self._canned is not None and self._chance.random() < self._canned[1]:
            link.client.write(self._canned[0])
            await _close(link.client)
            raise ConnectionAbortedError("answered by the proxy")
        link.is_doomed = link.is_doomed or self._is_doomed_by(link, data)
        link.service.write(data)
        await link.service.drain()
        if link.is_doomed:
            await asyncio.sleep(_REPLY_SECONDS)  # the answer cuts, in `_pass_down`, and ends this
            raise self._cut_off()

    async def _pass_down(self, link: _Link, data: bytes) -> None:
        if link.is_doomed:
            raise self._cut_off()
        cut = self._cut
        if cut is not None and cut.after_bytes is not None:
            link.relayed_bytes = 0 if link.counted_for is not cut else link.relayed_bytes
            link.counted_for = cut
            room = cut.after_bytes - link.relayed_bytes
            if len(data) >= room and cut.strikes(self._chance):
                link.client.write(data[:room])
                await link.client.drain()
                raise self._cut_off()
            link.relayed_bytes += len(data)
        link.client.write(data)
        await link.client.drain()

    def _is_doomed_by(self, link: _Link, data: bytes) -> bool:
        cut = self._cut
        if cut is None or cut.pattern is None:
            return False
        seen = link.tail + data
        link.tail = seen[len(seen) - len(cut.pattern) + 1 :] if len(cut.pattern) > 1 else b""
        return any(cut.strikes(self._chance) for _ in re.finditer(re.escape(cut.pattern), seen))

    def _cut_off(self) -> ConnectionError:
        self.cuts += 1
        return ConnectionResetError("cut by the proxy")

    def _do(self, act: Callable[[], Any]) -> Any:
        async def on_its_thread() -> Any:
            return act()

        return self._await(on_its_thread())


def _reset(writer: asyncio.StreamWriter) -> None:
    if not writer.transport.is_closing():
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
        writer.transport.abort()


async def _close(*writers: asyncio.StreamWriter) -> None:
    """End in good order."""
    for writer in writers:
        writer.close()
        await writer.wait_closed()
