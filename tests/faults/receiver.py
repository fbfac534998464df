"""A receiver of webhooks in a process of its own: as good or as bad as the path says, and it writes down every call.

`/ok` takes it, `/slow` a little later, `/500` refuses it, `/410` for good, `/429` for two seconds, `/flaky` twice per
event; `/hang` says nothing, `/drip` one byte a second, `/endless` a body without end, `/reset` ends the connection,
`/redirect` leads to `/trap`. What follows the first segment tells endpoints apart.
"""

import json
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from tests.processes.full import free_port
from tests.processes.harness import ROOT, eventually
from tests.unit.outbound.certificates import Authority

RETRY_AFTER_SECONDS: Final = 2
_REFUSALS_OF_FLAKY: Final = 2
_SLOW_SECONDS: Final = 0.3


@dataclass(frozen=True, slots=True)
class Received:
    """One call as the receiver saw it: `status` is what it was going to answer, None for none; `sent` the bytes that it
    got rid of, `seconds` how long it lasted.
    """

    path: str
    headers: Mapping[str, str]
    body: str
    peer: str
    status: int | None
    at: float
    seconds: float
    sent: int

    @property
    def event_id(self) -> str:
        """The `webhook-id`."""
        return self.headers["webhook-id"]

    @property
    def data(self) -> Any:
        """The `data` of the body."""
        return json.loads(self.body)["data"]

    @property
    def is_taken(self) -> bool:
        """Whether it was answered with success."""
        return self.status is not None and 200 <= self.status < 300


class Receiver:
    """The process and its records; it may be started and stopped again and again, on the same port."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._log = folder / "received.jsonl"
        self._log.touch()
        self._popen: subprocess.Popen[bytes] | None = None
        self.port, self.tls_port = free_port(), free_port()

    def url(self, path: str, *, tls: bool = False) -> str:
        """The URL of a path, with or without TLS (of a certificate that nobody vouches for)."""
        return f"https://127.0.0.1:{self.tls_port}{path}" if tls else f"http://127.0.0.1:{self.port}{path}"

    def start(self) -> None:
        """Begin to listen."""
        command = [sys.executable, "-m", "tests.faults.receiver", str(self.port), str(self.tls_port), str(self._log)]
        with (self._folder / "receiver.log").open("ab") as output:
            self._popen = subprocess.Popen(command, cwd=ROOT, stdout=output, stderr=output)
        eventually(self._answers, what="the receiver")

    def stop(self) -> None:
        """Listen no more."""
        if self._popen is not None:
            self._popen.kill()
            self._popen.wait()

    def received(self, path: str | None = None) -> list[Received]:
        """Every call so far, or those to one path."""
        lines = self._log.read_text().splitlines()
        return [one for one in (Received(**json.loads(line)) for line in lines) if path in (None, one.path)]

    def _answers(self) -> bool:
        for port in (self.port, self.tls_port):
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
            except OSError:
                return False
        return True


@contextmanager
def receiver(folder: Path, *, is_up: bool = True) -> Iterator[Receiver]:
    """A receiver that listens, unless it is to be started later; ended with the block."""
    made = Receiver(folder)
    if is_up:
        made.start()
    try:
        yield made
    finally:
        made.stop()


class _Call:
    """One connection."""

    def __init__(self, connection: socket.socket, peer: str) -> None:
        self.connection, self.peer, self.sent = connection, peer, 0
        self.began = time.monotonic()

    def read(self) -> tuple[str, dict[str, str], bytes]:
        """Path, headers in lower case, and body."""
        data = b""
        while b"\r\n\r\n" not in data:
            data += self._receive()
        head, _, body = data.partition(b"\r\n\r\n")
        first, *lines = head.decode("latin-1").split("\r\n")
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
        while len(body) < int(headers.get("content-length", "0")):
            body += self._receive()
        return first.split(" ")[1], headers, body

    def _receive(self) -> bytes:
        data = self.connection.recv(65536)
        if not data:
            raise ConnectionError("the client went away")
        return data

    def send(self, data: bytes) -> None:
        self.connection.sendall(data)
        self.sent += len(data)

    def answer(self, status: int, *headers: str, body: str = "") -> None:
        lines = [f"HTTP/1.1 {status} Status", f"Content-Length: {len(body)}", "Connection: close", *headers]
        self.send(("\r\n".join(lines) + "\r\n\r\n" + body).encode())

    def hang(self) -> None:
        """Until the client goes away."""
        while self.connection.recv(1):
            pass

    def drip(self) -> None:
        for byte in b"HTTP/1.1 200 OK\r\n":
            self.send(bytes([byte]))
            time.sleep(1)

    def pour(self) -> None:
        self.send(b"HTTP/1.1 200 OK\r\nContent-Length: 10737418240\r\n\r\n")
        while True:
            self.send(b"x" * 65536)

    def reset(self) -> None:
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
        self.connection.close()

    def take_slowly(self) -> None:
        time.sleep(_SLOW_SECONDS)
        self.answer(204)


_STATUSES: Final[Mapping[str, int]] = {"410": 410, "429": 429, "500": 500, "ok": 204, "slow": 204, "endless": 200}
_ACTIONS: Final[Mapping[str, Callable[[_Call], None]]] = {
    "ok": lambda call: call.answer(204),
    "500": lambda call: call.answer(500, body="trouble"),
    "410": lambda call: call.answer(410),
    "429": lambda call: call.answer(429, f"Retry-After: {RETRY_AFTER_SECONDS}"),
    "redirect": lambda call: call.answer(302, "Location: /trap"),
    "slow": _Call.take_slowly,
    "hang": _Call.hang,
    "drip": _Call.drip,
    "endless": _Call.pour,
    "reset": _Call.reset,
}


class _Process:
    """What runs in the process."""

    def __init__(self, log: Path) -> None:
        self._log = log
        self._lock = threading.Lock()
        self._refused: Counter[str] = Counter()

    def serve(self, listener: socket.socket, tls: Any = None) -> None:
        while True:
            connection, (peer, *_) = listener.accept()
            threading.Thread(target=self._serve_one, args=(connection, peer, tls), daemon=True).start()

    def _serve_one(self, connection: socket.socket, peer: str, tls: Any) -> None:
        with suppress(OSError), connection:
            connection.settimeout(120)
            call = _Call(tls.wrap_socket(connection, server_side=True) if tls else connection, peer)
            path, headers, body = call.read()
            mode = self._mode_of(path, headers)
            status = 302 if mode == "redirect" else _STATUSES.get(mode)
            at = time.time()
            # What is taken is written down before the answer: whoever dies of it has been heard.
            is_quick = mode not in {"hang", "drip", "endless"}
            if is_quick:
                self._write(call, path, headers, body, status, at)
            with suppress(OSError):
                _ACTIONS.get(mode, _ACTIONS["ok"])(call)
            if not is_quick:
                self._write(call, path, headers, body, status, at)

    def _mode_of(self, path: str, headers: Mapping[str, str]) -> str:
        mode = path.split("/")[1]
        if mode != "flaky":
            return mode
        with self._lock:
            self._refused[headers["webhook-id"]] += 1
            return "500" if self._refused[headers["webhook-id"]] <= _REFUSALS_OF_FLAKY else "ok"

    def _write(
        self, call: _Call, path: str, headers: Mapping[str, str], body: bytes, status: int | None, at: float
    ) -> None:
        seconds = time.monotonic() - call.began
        record = {"path": path, "headers": headers, "body": body.decode(), "peer": call.peer}
        line = json.dumps(record | {"status": status, "at": at, "seconds": seconds, "sent": call.sent})
        with self._lock, self._log.open("a") as file:
            file.write(line + "\n")


def _main(port: int, tls_port: int, log: Path) -> None:
    process = _Process(log)
    with tempfile.TemporaryDirectory() as folder:
        tls = Authority(Path(folder)).server_context("127.0.0.1")
    secured = socket.create_server(("127.0.0.1", tls_port))
    threading.Thread(target=process.serve, args=(secured, tls), daemon=True).start()
    process.serve(socket.create_server(("127.0.0.1", port), backlog=256))


if __name__ == "__main__":
    _main(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))
