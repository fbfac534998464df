"""Real processes for tests: a stack whose parts are started, signalled and killed one by one, on scaled clocks."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from common.db.engine import Database
from common.db.jobs import find_job
from common.db.migrate import migrate
from common.domain.snapshot import JobSnapshot
from common.settings import Settings, load_settings

ROOT = Path(__file__).parents[2]
Answer = TypeVar("Answer")

SCALED = {
    "DARKROOM_LEASE_SECONDS": "2",
    "DARKROOM_HEARTBEAT_SECONDS": "0.4",
    "DARKROOM_SWEEP_SECONDS": "0.3",
    "DARKROOM_POLL_SECONDS": "0.2",
    "DARKROOM_WISH_SECONDS": "0.1",
}
STUB_MODELS = """
[stub]
title = "Stub"
family = "stub"
source = { bundled = "stub" }
tasks = ["txt2img", "img2img"]
native_size = 64
licence = "none"
"""


@dataclass
class Process:
    """One part of the stack, with its log."""

    popen: "subprocess.Popen[bytes]"
    log: Path

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal."""
        self.popen.send_signal(number)

    def wait(self, seconds: float = 30) -> int:
        """Its exit status; fails with the log when it does not end."""
        try:
            return self.popen.wait(seconds)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"still running after {seconds} s:\n{self.log.read_text()}") from None


@dataclass
class Stack:
    """A deployment in a folder, with the settings that all its parts get."""

    folder: Path
    environment: dict[str, str]
    processes: list[Process] = field(default_factory=list)

    @property
    def settings(self) -> Settings:
        """The settings of the parts, as values."""
        names = {name.removeprefix("DARKROOM_").lower(): value for name, value in self.environment.items()}
        return load_settings(**{name: value or None for name, value in names.items()})

    @property
    def database(self) -> Database:
        """The stack's database; the caller closes it."""
        return Database(self.settings.database)

    def start(self, *command: str, **extra: str) -> Process:
        """Start `python -m command…` with the stack's settings, logging into the folder."""
        log = self.folder / f"{len(self.processes)}-{command[0]}.log"
        base = {name: value for name, value in os.environ.items() if not name.startswith("DARKROOM_")}
        environment = base | {"OMP_NUM_THREADS": "1"} | self.environment | extra
        with log.open("wb") as output:
            popen = subprocess.Popen(
                [sys.executable, "-m", *command], cwd=ROOT, env=environment, stdout=output, stderr=output
            )
        self.processes.append(Process(popen, log))
        return self.processes[-1]

    def worker(self, device: str = "stub", **extra: str) -> Process:
        """A worker process without a launcher, so that it is not replaced."""
        return self.start("worker.main", "--device", device, **extra)

    def sweeper(self) -> Process:
        """A sweeper process."""
        return self.start("client.cli", "sweeper")

    def stop(self) -> None:
        """End what still runs, by process id."""
        for process in self.processes:
            if process.popen.poll() is None:
                process.popen.kill()
                process.popen.wait()


@contextmanager
def stack(folder: Path, **environment: str) -> Iterator[Stack]:
    """A migrated stub stack on scaled clocks, ended with the block."""
    models = folder / "models.toml"
    models.write_text(STUB_MODELS)
    base = {"DARKROOM_DATA_DIR": str(folder / "data"), "DARKROOM_MODELS_FILE": str(models)}
    built = Stack(folder, base | SCALED | environment)
    database = built.database
    migrate(database)
    database.close()
    try:
        yield built
    finally:
        built.stop()


def eventually(look: Callable[[], Answer], *, seconds: float = 30.0, what: str = "it") -> Answer:
    """The first truthy answer of `look`; fails after `seconds`."""
    deadline = time.monotonic() + seconds
    while not (answer := look()):
        if time.monotonic() > deadline:
            raise AssertionError(f"{what} did not come true within {seconds} s")
        time.sleep(0.02)
    return answer


def look_at(database: Database, job_id: str) -> JobSnapshot:
    """The default tenant's job as it is now."""
    with database.read() as connection:
        found = find_job(connection, "default", job_id)
    assert found is not None
    return found


def until_finished(database: Database, job_id: str, seconds: float = 30.0) -> JobSnapshot:
    """The job once it is terminal."""

    def finished() -> JobSnapshot | None:
        found = look_at(database, job_id)
        return found if found.state.is_terminal else None

    found = eventually(finished, seconds=seconds, what=f"the end of {job_id}")
    assert found is not None
    return found
