"""A whole deployment of real processes that a test may kill: what dies is started again at once, as a supervisor would.

Composed of `tests.processes`: the stub model, scaled clocks, PostgreSQL, Redis, a folder or S3 as the store.
"""

import json
import os
import signal
import threading
import zlib
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Literal

from sqlalchemy import select

from common.clock import monotonic_seconds, utc_now
from common.db.engine import Database
from common.db.tables import workers
from common.db.types import now
from common.storage.open import open_store
from common.storage.port import ObjectStore
from tests.processes.full import answers, free_port, fresh_postgres
from tests.processes.harness import Process, Stack, eventually, stack
from tests.service_urls import REDIS

Role = Literal["api", "worker", "launcher", "courier", "sweeper"]

_LOOK_SECONDS = 0.02
_COMMANDS: Mapping[Role, tuple[str, ...]] = {
    "api": ("client.cli", "api"),
    "worker": ("worker.main", "--device", "stub"),  # alone, as when a whole machine dies: nobody sees how it ended
    "launcher": ("client.cli", "worker", "--device", "stub"),
    "courier": ("client.cli", "courier"),
    "sweeper": ("client.cli", "sweeper"),
}


@dataclass(frozen=True, slots=True)
class Blow:
    """A signal that a process got, with the moment by both clocks; `worker_id` is the id that a worker had."""

    name: str
    role: Role
    pid: int
    signal: signal.Signals
    at: datetime
    monotonic: float
    worker_id: str | None = None


@dataclass(frozen=True, slots=True)
class Life:
    """One process of a part, from when it was started, by the wall clock, with its log."""

    name: str
    role: Role
    pid: int
    began_at: datetime
    log: Path

    def start_seconds(self) -> float | None:
        """From its start until it said that it has started; None when it never did."""
        for line in self.log.read_text().splitlines():
            if f'"{self.role}.started"' in line:
                return (datetime.fromisoformat(json.loads(line)["timestamp"]) - self.began_at).total_seconds()
        return None


@dataclass
class Part:
    """One member of the deployment: the process that it is now, and how the next one is started."""

    name: str
    role: Role
    process: Process
    environment: dict[str, str]
    port: int = 0
    is_kept: bool = True

    @property
    def url(self) -> str:
        """Where an API is."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        """The process id now."""
        return self.process.popen.pid

    @property
    def is_alive(self) -> bool:
        """Whether its process has not ended; a stopped one has not."""
        return self.process.popen.poll() is None


@dataclass
class Deployment:
    """The parts by name (`api-0`, `worker-0`, …), and what happened to them. Its methods may be called from any thread.

    `seed` decides the failpoints' probabilities, each process of a part having its own sequence.
    """

    stack: Stack
    database: Database
    store: ObjectStore
    seed: int = 0
    parts: dict[str, Part] = field(default_factory=dict)
    lives: list[Life] = field(default_factory=list)
    blows: list[Blow] = field(default_factory=list)
    _lock: threading.RLock = field(default_factory=threading.RLock)

    @property
    def url(self) -> str:
        """Where the first API is."""
        return self.parts["api-0"].url

    def start(self, role: Role, *, once: str = "", **environment: str) -> Part:
        """A further part of this role. `once`: failpoints of its first process alone; `environment`: of all.

        An API keeps its port for all its processes.
        """
        with self._lock:
            name = f"{role}-{sum(part.role == role for part in self.parts.values())}"
            port = free_port() if role == "api" else 0
            first = environment | ({"DARKROOM_FAILPOINTS": once} if once else {})
            process = self._spawn(name, role, port, first)
            self.parts[name] = Part(name, role, process, environment, port)
            return self.parts[name]

    def end(self, name: str) -> None:
        """Kill a part for good."""
        self.leave_dead(name)
        part = self.parts[name]
        if part.is_alive:
            self.kill(name)
            part.process.wait()

    def of_role(self, *roles: Role) -> list[Part]:
        """The parts of these roles, or all of them."""
        return [part for part in list(self.parts.values()) if not roles or part.role in roles]

    def kill(self, name: str, number: signal.Signals = signal.SIGKILL) -> Blow:
        """Send a signal, having noted the database's time right before. What it ends is started again if kept alive."""
        with self._lock:
            part = self.parts[name]
            at, worker_id = self.look(part.pid)
            blow = Blow(name, part.role, part.pid, number, at, monotonic_seconds(), worker_id)
            part.process.signal(number)
            self.blows.append(blow)
            return blow

    def leave_dead(self, name: str) -> None:
        """From now on this part is not started again."""
        self.parts[name].is_kept = False

    def restart(self, name: str) -> int:
        """SIGTERM, wait for the end, start it again, as a rolling update does. Returns the exit status."""
        self.leave_dead(name)
        part = self.parts[name]
        self.kill(name, signal.SIGTERM)
        status = part.process.wait(60)
        with self._lock:
            self._begin_again(part)
            part.is_kept = True
        return status

    @contextmanager
    def keep_alive(self) -> Iterator[None]:
        """While the block lasts, every process that ends is started again at once."""
        stop = threading.Event()
        thread = threading.Thread(target=self._supervise, args=(stop,), name="supervisor", daemon=True)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()

    def revive(self) -> int:
        """Start again what has ended and is to be kept. Returns how many that were."""
        with self._lock:
            dead = [part for part in self.parts.values() if part.is_kept and not part.is_alive]
            for part in dead:
                self._begin_again(part)
            return len(dead)

    def until_ready(self) -> None:
        """Wait until every API answers and every worker has signed on, of those that are to live."""
        for part in [part for part in self.of_role("api", "worker") if part.is_kept]:
            is_ready = self._answers if part.role == "api" else self._has_signed_on
            eventually(lambda part=part, is_ready=is_ready: is_ready(part), seconds=60, what=f"{part.name} at work")

    def _answers(self, part: Part) -> bool:
        return answers(part.url)

    def _has_signed_on(self, part: Part) -> bool:
        return self.look(part.pid)[1] is not None

    def _supervise(self, stop: threading.Event) -> None:
        while not stop.wait(_LOOK_SECONDS):
            self.revive()

    def _begin_again(self, part: Part) -> None:
        part.process = self._spawn(part.name, part.role, part.port, part.environment)

    def _spawn(self, name: str, role: Role, port: int, environment: dict[str, str]) -> Process:
        lives = sum(life.name == name for life in self.lives)
        seed = zlib.crc32(f"{self.seed}/{name}/{lives}".encode()) or 1
        chances = {"DARKROOM_FAILPOINT_SEED": str(seed)}
        arguments = ("--port", str(port)) if port else ()
        began_at = utc_now()
        process = self.stack.start(*_COMMANDS[role], *arguments, **(chances | environment))
        self.lives.append(Life(name, role, process.popen.pid, began_at, process.log))
        return process

    def look(self, pid: int) -> tuple[datetime, str | None]:
        """The database's time, and the id of the worker that has this process id."""
        newest = select(workers.c.id).where(workers.c.pid == pid).order_by(workers.c.started_at.desc()).limit(1)
        with self.database.read() as connection:
            worker_id = connection.execute(newest).scalar_one_or_none()
            return connection.execute(select(now())).scalar_one(), worker_id


@contextmanager
def deployment(
    folder: Path,
    *,
    apis: int = 1,
    workers: int = 2,
    couriers: int = 1,
    sweepers: int = 1,
    failpoints: Mapping[Role, str] | None = None,
    seed: int = 0,
    database_url: str | None = None,
    broker_url: str = REDIS,
    store_url: str = "",
    **environment: str,
) -> Iterator[Deployment]:
    """A deployment with its data in `folder`, ready when the block begins; all its processes end with the block.

    `failpoints` arm every process of a role. A database of its own is made unless a URL is given; without `store_url`
    objects lie in the folder. `environment` are settings of all parts.
    """
    with ExitStack() as cleanup:
        services = {
            "DARKROOM_DATABASE_URL": database_url or cleanup.enter_context(fresh_postgres()),
            "DARKROOM_BROKER_URL": broker_url,
            "DARKROOM_STORE_URL": store_url,
        }
        built = cleanup.enter_context(stack(folder, **(services | environment)))
        database = built.database
        cleanup.callback(database.close)
        made = Deployment(built, database, open_store(built.settings.store, None), seed)
        cleanup.callback(_wake_all, made)
        counts: Mapping[Role, int] = {"api": apis, "worker": workers, "courier": couriers, "sweeper": sweepers}
        for role, count in counts.items():
            armed = {"DARKROOM_FAILPOINTS": failpoints[role]} if failpoints and role in failpoints else {}
            for _ in range(count):
                made.start(role, **armed)
        made.until_ready()
        yield made


def _wake_all(made: Deployment) -> None:
    """A stopped process dies of SIGKILL all the same, but what it started looks for its end."""
    for part in made.of_role():
        if part.is_alive:
            os.kill(part.pid, signal.SIGCONT)
