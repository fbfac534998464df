"""Hosts on the loopback that do as they are told, and a resolver that says what it is told."""

import socket
import ssl
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from ipaddress import ip_address
from typing import Self

from common.outbound.addresses import IPAddress

Script = Callable[["Visit"], None]

# One byte this often is a drip; it is told by an event, so a host that is closed drips no longer.
DRIP_SECONDS = 0.02


class Visit:
    """One connection that a host accepted: where the client dialled to, what it asked, which name its TLS gave."""

    def __init__(self, connection: socket.socket, host: "Host") -> None:
        self.connection = connection
        self.peer: str = connection.getsockname()[0]
        self.sni: str | None = None
        self.request = b""
        self._host = host

    def read_request(self) -> None:
        """Read the head and as much body as it announces."""
        while b"\r\n\r\n" not in self.request:
            self._read()
        head, _, body = self.request.partition(b"\r\n\r\n")
        length = int(self.headers.get("content-length", "0"))
        missing = length - len(body)
        while missing > 0:
            missing -= self._read()
        assert head

    @property
    def headers(self) -> dict[str, str]:
        lines = self.request.partition(b"\r\n\r\n")[0].decode().split("\r\n")[1:]
        return {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}

    def send(self, data: bytes) -> None:
        self.connection.sendall(data)

    def drip(self, data: bytes) -> None:
        """Send `data` byte by byte until the client goes away or the host closes."""
        for byte in data:
            if self._host.closing.wait(DRIP_SECONDS):
                return
            self.send(bytes([byte]))

    def reset(self) -> None:
        """Close with RST."""
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
        self.connection.close()

    def _read(self) -> int:
        data = self.connection.recv(65536)
        if not data:
            raise ConnectionError("the client went away")
        self.request += data
        return len(data)


class Host:
    """Answers each connection with `script`, one after the other, and remembers them as `visits`."""

    def __init__(self, script: Script, address: str = "127.0.0.1", tls: ssl.SSLContext | None = None) -> None:
        self.visits: list[Visit] = []
        self.closing = threading.Event()
        self._script = script
        self._tls = tls
        self._listener = socket.create_server(
            (address, 0), family=socket.AF_INET6 if ":" in address else socket.AF_INET
        )
        self.port: int = self._listener.getsockname()[1]
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def close(self) -> None:
        self.closing.set()
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._listener.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _serve(self) -> None:
        while not self.closing.is_set():
            with suppress(OSError):
                connection, _ = self._listener.accept()
                connection.settimeout(10)
                self._answer(Visit(connection, self))

    def _answer(self, visit: Visit) -> None:
        self.visits.append(visit)
        try:
            if self._tls:
                self._tls.sni_callback = lambda _socket, name, _context: setattr(visit, "sni", name)
                visit.connection = self._tls.wrap_socket(visit.connection, server_side=True)
            visit.read_request()
            self._script(visit)
        finally:
            visit.connection.close()


class Answers:
    """A resolver with one answer per lookup and name; the last one stays. Names not given do not exist."""

    def __init__(self, **answers: Sequence[Sequence[str]]) -> None:
        self._answers = {name.replace("_", "."): list(answer) for name, answer in answers.items()}
        self.lookups: list[str] = []

    def addresses(self, host: str, *, limit_seconds: float) -> Sequence[IPAddress]:
        self.lookups.append(host)
        if host not in self._answers:
            raise socket.gaierror(socket.EAI_NONAME, "no such name")
        answers = self._answers[host]
        return [ip_address(text) for text in (answers.pop(0) if len(answers) > 1 else answers[0])]


def answer(
    status: int = 200, body: bytes = b"", headers: Sequence[tuple[str, str]] = (), length: int | None = None
) -> bytes:
    """An HTTP/1.1 answer; `length` is what it says of its body's length when that is not the truth."""
    declared = len(body) if length is None else length
    lines = [
        f"HTTP/1.1 {status} Status",
        f"Content-Length: {declared}",
        *(f"{name}: {value}" for name, value in headers),
    ]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def sends(data: bytes) -> Script:
    """A host that sends this whatever it is asked."""
    return lambda visit: visit.send(data)


@contextmanager
def unused_port(address: str = "127.0.0.1") -> Iterator[int]:
    """A port on which nobody listens, and nobody can while this lasts."""
    with socket.socket() as holder:
        holder.bind((address, 0))
        yield holder.getsockname()[1]
