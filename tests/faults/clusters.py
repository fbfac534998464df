"""Services that one test owns: it may stop, wipe and freeze them, and harms nobody else.

Each listens on a free port of 127.0.0.1 and ends with its block; when the test process dies, the kernel ends it. That
holds for the thread that starts it, so start and stop them on the test's main thread. Linux only.
"""

import os
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal

import psycopg
import redis

from tests.conftest import missing
from tests.processes.full import free_port
from tests.processes.harness import eventually

START_SECONDS: Final = 60.0
_STOP_SECONDS: Final = 60.0
_DATABASE: Final = "darkroom"
_USER: Final = "postgres"

# Arguments: a user id and a group id, the signal for when the parent is gone, the parent's id, then the command. The
# wish must be made after the change of user, which forgets it.
_LAUNCHER: Final = """
import ctypes, os, sys
user, group, number, parent, *command = sys.argv[1:]
if os.getuid() == 0 and int(user):
    os.setgroups([])
    os.setresgid(*[int(group)] * 3)
    os.setresuid(*[int(user)] * 3)
ctypes.CDLL(None).prctl(1, int(number), 0, 0, 0)
if os.getppid() != int(parent):
    sys.exit(1)
os.chdir("/")
os.execv(command[0], command)
"""


def _launch(command: list[str], log: Path, number: signal.Signals, user: tuple[int, int]) -> "subprocess.Popen[bytes]":
    arguments = [*map(str, user), str(int(number)), str(os.getpid()), *command]
    with log.open("ab") as output:
        return subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", _LAUNCHER, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )


@dataclass
class _Service(ABC):
    """One process that is started and stopped any number of times, on one port."""

    log: Path
    port: int = field(default_factory=free_port)
    popen: "subprocess.Popen[bytes] | None" = None

    def _begin(self, command: list[str], number: signal.Signals, user: tuple[int, int]) -> None:
        if self.popen is None:
            self.popen = _launch(command, self.log, number, user)
        eventually(self._answers_or_fails, seconds=START_SECONDS, what=f"the first answer of {self.log.stem}")

    def _answers_or_fails(self) -> bool:
        if self.popen is None or self.popen.poll() is not None:
            raise AssertionError(f"{self.log.stem} ended at once:\n{self.log.read_text()[-2000:]}")
        return self.is_answering()

    @abstractmethod
    def is_answering(self) -> bool:
        """Whether it serves now."""

    def _end(self, number: signal.Signals) -> None:
        if self.popen is None:
            return
        self.popen.send_signal(number)
        try:
            self.popen.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.popen.kill()
            self.popen.wait()
        self.popen = None


@dataclass
class OwnPostgres(_Service):
    """A PostgreSQL cluster with one empty database, `darkroom`; durable against its own stops, not the machine's."""

    home: Path = field(kw_only=True)
    user: tuple[int, int] = field(kw_only=True)

    @property
    def url(self) -> str:
        """Where its database is."""
        return self.url_at(self.port)

    def url_at(self, port: int) -> str:
        """The same through a proxy that listens on `port`."""
        return f"postgresql+psycopg://{_USER}@127.0.0.1:{port}/{_DATABASE}"

    def connect(self, database: str = _DATABASE) -> "psycopg.Connection[tuple[object, ...]]":
        """A connection that commits each statement; the caller closes it."""
        address = f"host=127.0.0.1 port={self.port} user={_USER} dbname={database} connect_timeout=2"
        return psycopg.connect(address, autocommit=True)

    def is_answering(self) -> bool:
        """Whether it takes connections now."""
        try:
            self.connect("postgres").close()
        except psycopg.OperationalError:
            return False
        return True

    def start(self) -> None:
        """Serve, and return once it takes connections."""
        options = {
            "listen_addresses": "127.0.0.1",
            "port": self.port,
            "unix_socket_directories": self.home,
            "max_connections": 200,
            "fsync": "off",
            "shared_buffers": "32MB",
        }
        settings = [part for name, value in options.items() for part in ("-c", f"{name}={value}")]
        command = [_program("postgres"), "-D", str(self.home / "data"), *settings]
        self._begin(command, signal.SIGQUIT, self.user)

    def stop(self, mode: Literal["fast", "immediate"] = "fast") -> None:
        """End it: `fast` ends connections in good order, `immediate` is a crash that the next start recovers from."""
        self._end(signal.SIGINT if mode == "fast" else signal.SIGQUIT)

    def restart(self, mode: Literal["fast", "immediate"] = "fast") -> None:
        """Stop and start, as quickly as it goes."""
        self.stop(mode)
        self.start()


@contextmanager
def own_postgres(folder: Path) -> Iterator[OwnPostgres]:
    """A running cluster that logs into `folder`. Skips where PostgreSQL's programs are missing, but fails in CI."""
    user = _ordinary_user()
    # Not in `folder`: the folders of pytest are closed to every other user.
    home = Path(tempfile.mkdtemp(prefix="darkroom-postgres-"))
    cluster = OwnPostgres(folder / "postgres.log", home=home, user=user)
    try:
        os.chown(home, *user)
        _initialise(home / "data", folder / "initdb.log", user)
        cluster.start()
        with cluster.connect("postgres") as connection:
            connection.execute(f"CREATE DATABASE {_DATABASE}")
        yield cluster
    finally:
        cluster.stop("immediate")
        shutil.rmtree(home, ignore_errors=True)


def _initialise(data: Path, log: Path, user: tuple[int, int]) -> None:
    command = [_program("initdb"), "-D", str(data), "-U", _USER, "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync"]
    if _launch(command, log, signal.SIGKILL, user).wait() != 0:
        raise AssertionError(f"initdb failed:\n{log.read_text()[-2000:]}")


def _program(name: str) -> str:
    """Where a program of PostgreSQL is; of several versions the newest."""
    installed = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"), key=lambda path: int(path.parts[4]))
    found = shutil.which(name) or (str(installed[-1]) if installed else None)
    if found is None:
        missing("PostgreSQL", FileNotFoundError(name))
    return str(found)


def _ordinary_user() -> tuple[int, int]:
    """Whom to run PostgreSQL as, which refuses root: ourselves, or the user that its package made, or nobody."""
    if os.getuid() != 0:
        return os.getuid(), os.getgid()
    for name in ("postgres", "nobody"):
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            continue
        return entry.pw_uid, entry.pw_gid
    return 65534, 65534


@dataclass
class OwnRedis(_Service):
    """A Redis that keeps nothing over a stop."""

    @property
    def url(self) -> str:
        """Where it is."""
        return self.url_at(self.port)

    def url_at(self, port: int) -> str:
        """The same through a proxy that listens on `port`."""
        return f"redis://127.0.0.1:{port}/0"

    def client(self) -> redis.Redis:
        """A client of it; the caller closes it."""
        return redis.Redis.from_url(self.url, socket_timeout=5)

    def is_answering(self) -> bool:
        """Whether it answers now."""
        client = self.client()
        try:
            return bool(client.ping())
        except redis.RedisError:
            return False
        finally:
            client.close()

    def start(self) -> None:
        """Serve, empty, and return once it answers."""
        program = shutil.which("redis-server")
        if program is None:
            missing("Redis", FileNotFoundError("redis-server"))
        place = ["--bind", "127.0.0.1", "--port", str(self.port), "--dir", str(self.log.parent)]
        command = [str(program), *place, "--save", "", "--appendonly", "no"]
        self._begin(command, signal.SIGKILL, (os.getuid(), os.getgid()))

    def stop(self) -> None:
        """End it; what it held is lost."""
        self.resume()
        self._end(signal.SIGKILL)

    def pause(self) -> None:
        """Let it hold its connections and answer nothing."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let it go on where it was."""
        self._signal(signal.SIGCONT)

    def _signal(self, number: signal.Signals) -> None:
        if self.popen is not None:
            self.popen.send_signal(number)


@contextmanager
def own_redis(folder: Path) -> Iterator[OwnRedis]:
    """A running Redis that logs into `folder`. Skips where the program is missing, but fails in CI."""
    server = OwnRedis(folder / "redis.log")
    try:
        server.start()
        yield server
    finally:
        server.stop()
