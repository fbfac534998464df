"""Connections that lead nowhere but to addresses that passed, and of which no step outlasts one deadline."""

import socket
import ssl
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final

import httpcore

from common.outbound.addresses import IPAddress
from common.outbound.deadline import Deadline

CONNECT_SECONDS: Final = 5.0


class VettedBackend(httpcore.NetworkBackend):
    """httpcore's way to the network, led to these addresses and this port, whatever host it asks for.

    The first address that accepts within its share of the time to connect is taken.
    """

    def __init__(self, addresses: Sequence[IPAddress], port: int, deadline: Deadline) -> None:
        self._addresses = addresses
        self._port = port
        self._deadline = deadline

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.NetworkStream:
        """A connection to one of the vetted addresses; all arguments are those of the base class, and ignored."""
        with _as_httpcore(httpcore.ConnectTimeout, httpcore.ConnectError):
            return _Stream(self._dial_any(), self._deadline)

    def _dial_any(self) -> socket.socket:
        limit = Deadline(min(CONNECT_SECONDS, self._deadline.seconds_left()))
        *others, last = self._addresses
        for count, address in enumerate(others):
            try:
                return dial(address, self._port, limit.seconds_left() / (len(self._addresses) - count))
            except OSError:
                continue
        return dial(last, self._port, limit.seconds_left())


def dial(address: IPAddress, port: int, limit_seconds: float) -> socket.socket:
    """A TCP connection to exactly this address. Raises OSError."""
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    connection = socket.socket(family, socket.SOCK_STREAM)
    try:
        connection.settimeout(limit_seconds)
        connection.connect((str(address), port))
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    except BaseException:
        connection.close()
        raise
    return connection


class _Stream(httpcore.NetworkStream):
    """A socket whose every wait ends at the deadline: httpcore's own timeouts start anew with each byte."""

    def __init__(self, connection: socket.socket, deadline: Deadline) -> None:
        self._socket = connection
        self._deadline = deadline

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        """See the base class; `timeout` is the deadline's."""
        with _as_httpcore(httpcore.ReadTimeout, httpcore.ReadError):
            self._socket.settimeout(self._deadline.seconds_left())
            return self._socket.recv(max_bytes)

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        """See the base class; `timeout` is the deadline's."""
        with _as_httpcore(httpcore.WriteTimeout, httpcore.WriteError):
            while buffer:
                self._socket.settimeout(self._deadline.seconds_left())
                buffer = buffer[self._socket.send(buffer) :]

    def close(self) -> None:
        """See the base class."""
        self._socket.close()

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.NetworkStream:
        """See the base class; `timeout` is the deadline's. A failed handshake closes the connection."""
        try:
            with _as_httpcore(httpcore.ConnectTimeout, httpcore.ConnectError):
                self._socket.settimeout(self._deadline.seconds_left())
                secured = ssl_context.wrap_socket(self._socket, server_hostname=server_hostname)
        except BaseException:
            self.close()
            raise
        return _Stream(secured, self._deadline)

    def get_extra_info(self, info: str) -> Any:
        """See the base class: nothing is known (and so HTTP/1.1 is spoken)."""
        return None


@contextmanager
def _as_httpcore(timed_out: type[Exception], failed: type[Exception]) -> Iterator[None]:
    """Raise the errors of sockets as those that httpcore expects of a network."""
    try:
        yield
    except TimeoutError as error:
        raise timed_out(str(error)) from error
    except OSError as error:
        raise failed(str(error)) from error
