"""A real S3 server for tests: OpenStack Swift with its s3api front, from pip, in one folder and four processes.

It checks signatures, expiry and checksums, which the usual mocks do not. `python -m tests.services.swift --data DIR
--port 15002` serves until SIGTERM; `run_swift` does the same as a context manager. Needs a file system with user
extended attributes and a user who has a name; root or not does not matter.
"""

import argparse
import os
import pwd
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Final
from urllib.parse import quote

from common.storage.s3 import S3Location, S3Store
from tests.services.swift_files import ACCESS_KEY, REGION, RING_PROGRAM, SECRET_KEY, SERVERS, write_files

START_SECONDS: Final = 30.0
_STOP_SECONDS: Final = 5.0

# Linux: SIGTERM for the server when the process that started it ends, however it ends.
_SERVER_PROGRAM: Final = """
import ctypes, sys
ctypes.CDLL(None).prctl(1, 15, 0, 0, 0)
from swift.{package}.server import main
sys.exit(main())
"""


class SwiftUnavailable(RuntimeError):
    """Swift cannot be started here; the message says why."""


@dataclass(frozen=True, slots=True)
class S3Server:
    """How to reach a running S3 server (path-style addressing) and the bucket that it has."""

    endpoint: str
    bucket: str = "darkroom"
    access_key: str = ACCESS_KEY
    secret_key: str = field(default=SECRET_KEY, repr=False)
    region: str = REGION

    def location(self, prefix: str = "") -> S3Location:
        """The place below `prefix` in the bucket, as `S3Store` takes it."""
        return S3Location(
            bucket=self.bucket,
            prefix=prefix,
            endpoint=self.endpoint,
            region=self.region,
            style="path",
            access_key=self.access_key,
            secret_key=self.secret_key,
        )

    def store_url(self, prefix: str = "") -> str:
        """The same as a store URL (`open_store`, DARKROOM_STORE_URL)."""
        credentials = f"{quote(self.access_key, safe='')}:{quote(self.secret_key, safe='')}"
        return f"s3://{credentials}@{self.bucket}/{prefix}?endpoint={self.endpoint}&region={self.region}&style=path"


@contextmanager
def run_swift(data: Path, port: int | None = None) -> Iterator[S3Server]:
    """Serve the objects in the folder `data`, kept from run to run, on 127.0.0.1 (a free port by default).

    The bucket `darkroom` is there when the block begins.
    Raises `SwiftUnavailable`. All processes are gone when the block is left.
    """
    _check_environment(data)
    ports = _choose_ports(port)
    write_files(data, ports, user=pwd.getpwuid(os.getuid()).pw_name)
    _build_rings(data, ports)
    with ExitStack() as stack:
        for name in SERVERS:
            stack.enter_context(_run_server(data, name, ports[name]))
        server = S3Server(f"http://127.0.0.1:{ports['proxy']}")
        S3Store(server.location()).ensure_bucket()
        yield server


def _check_environment(data: Path) -> None:
    if find_spec("swift") is None:
        raise SwiftUnavailable("the package `swift` is not installed (the extra `swift` of this project)")
    data.mkdir(parents=True, exist_ok=True)
    probe = data / ".xattr"
    probe.touch()
    try:
        os.setxattr(probe, "user.darkroom", b"1")
    except (OSError, AttributeError) as error:
        raise SwiftUnavailable(f"Swift needs user extended attributes, which {data} does not have") from error
    finally:
        probe.unlink()
    try:
        pwd.getpwuid(os.getuid())
    except KeyError as error:
        raise SwiftUnavailable(f"Swift needs a user with a name, and {os.getuid()} has none") from error


def _choose_ports(proxy_port: int | None) -> dict[str, int]:
    """A free port for each server; all are held until all are known, so no two are the same."""
    with ExitStack() as stack:
        ports = {}
        for name in SERVERS:
            probe = stack.enter_context(socket.socket())
            wanted = proxy_port if name == "proxy" and proxy_port else 0
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", wanted))
            except OSError as error:
                raise SwiftUnavailable(f"port {wanted} is taken") from error
            ports[name] = probe.getsockname()[1]
        return ports


def _build_rings(data: Path, ports: Mapping[str, int]) -> None:
    rings = [f"{name}={ports[name]}" for name in SERVERS if name != "proxy"]
    command = [sys.executable, "-c", RING_PROGRAM, str(data), *rings]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode != 0:
        raise SwiftUnavailable(f"Swift's rings cannot be built: {result.stderr}")


@contextmanager
def _run_server(data: Path, name: str, port: int) -> Iterator[None]:
    program = _SERVER_PROGRAM.format(package={"object": "obj"}.get(name, name))
    log_path = data / f"{name}.log"
    with log_path.open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-c", program, str(data / f"{name}.conf"), "-v"],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        _await_port(process, port, log_path)
        yield
    finally:
        _stop(process)


def _await_port(process: "subprocess.Popen[bytes]", port: int, log_path: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise SwiftUnavailable(f"{log_path.stem} ended at once: {log_path.read_text()[-2000:]}")
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.02)
    raise SwiftUnavailable(f"{log_path.stem} does not listen after {START_SECONDS:g} s; see {log_path}")


def _stop(process: "subprocess.Popen[bytes]") -> None:
    process.terminate()
    try:
        process.wait(_STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def main() -> None:
    """Serve until SIGTERM or Ctrl-C."""
    parser = argparse.ArgumentParser(prog="python -m tests.services.swift", description="A real S3 server for tests.")
    parser.add_argument("--data", type=Path, required=True, help="folder of the objects, configuration and logs")
    parser.add_argument("--port", type=int, help="port on 127.0.0.1 (default: a free one)")
    options = parser.parse_args()
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    with run_swift(options.data.resolve(), options.port) as server:
        print(server.store_url(), flush=True)
        stop.wait()


if __name__ == "__main__":
    main()
