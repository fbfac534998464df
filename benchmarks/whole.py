"""The whole service as a program: a backlog is submitted to a paused pool, the pool is released, and the last picture
is in the store.
"""

import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from io import BytesIO
from pathlib import Path
from typing import Protocol

import httpx
from PIL import Image
from sqlalchemy import func, select, update

from benchmarks.checkpoints import FAMILIES, catalogue_text
from benchmarks.plain import as_png
from benchmarks.programs import Taken
from benchmarks.workloads import Edit, picture
from common.db.engine import Database
from common.db.tables import images, jobs, pools
from common.domain.lifecycle import JobState
from common.queue.celery_app import DOORBELL_TASK, create_celery, pool_queue
from common.settings import Settings
from common.storage.open import open_store
from tests.processes.full import full_stack
from tests.processes.harness import Process, Stack, eventually
from tests.service_urls import REDIS

PATIENCE_SECONDS = 600.0
_POLL_SECONDS = 0.05
_POOL = "default"


class Worker(Protocol):
    """The stack's worker, wherever it runs."""

    def check(self) -> None:
        """Raises RuntimeError when it has ended."""

    def cpu_seconds(self) -> float:
        """CPU time that it has used."""

    def ring(self) -> None:
        """There is work."""

    def stop(self) -> None:
        """End it."""


class ProcessWorker:
    """A worker process, as `darkroom worker` starts it."""

    def __init__(self, built: Stack) -> None:
        self._settings = built.settings
        self._process = built.worker("cpu")
        started = "worker.started"
        eventually(lambda: started in self._process.log.read_text(), seconds=120, what="the worker's start")

    def check(self) -> None:
        """See `Worker`."""
        if self._process.popen.poll() is not None:
            raise RuntimeError(f"the worker ended:\n{self._process.log.read_text()[-4000:]}")

    def cpu_seconds(self) -> float:
        """See `Worker`."""
        return cpu_seconds(self._process)

    def ring(self) -> None:
        """As a submit to a pool that is not paused does."""
        app = create_celery(self._settings)
        app.send_task(DOORBELL_TASK, queue=pool_queue(_POOL), retry=False, ignore_result=True)
        app.close()

    def stop(self) -> None:
        """See `Worker`."""
        self._process.signal(signal.SIGTERM)
        self._process.wait(60)


class Whole:
    """A running stack of API, worker, PostgreSQL, Redis and a store."""

    def __init__(self, settings: Settings, worker: Worker, client: httpx.Client, database: Database) -> None:
        self.worker = worker
        self._client = client
        self._database = database
        self._settings = settings
        self._uploads: dict[int, str] = {}

    def warm_up(self, edits: Sequence[Edit]) -> None:
        """Run a few jobs to their ends, so that the models are loaded."""
        self._wait_for(self._submit(edits))

    def run(self, edits: Sequence[Edit]) -> tuple[Taken, list[str]]:
        """From the release of a full queue to the last success, by the database's clock; and the jobs' ids.

        `cpu` is the worker process's.
        """
        self._pause()
        names = self._submit(edits)
        before = self.worker.cpu_seconds()
        released_at = self._release()
        self._wait_for(names)
        taken = Taken(len(edits))
        taken.wall = (self._last_end(names) - released_at).total_seconds()
        taken.cpu = self.worker.cpu_seconds() - before
        return taken, names

    def pictures(self, names: Sequence[str]) -> dict[int, Image.Image]:
        """The stored results by the jobs' places."""
        store = open_store(self._settings.store, None)
        with self._database.read() as connection:
            rows = connection.execute(select(images.c.job_id, images.c.key).where(images.c.job_id.in_(names)))
            keys = {row.job_id: row.key for row in rows}
        return {number: Image.open(BytesIO(store.get(keys[name]))).convert("RGB") for number, name in enumerate(names)}

    def _submit(self, edits: Sequence[Edit]) -> list[str]:
        return [self._submit_one(edit) for edit in edits]

    def _submit_one(self, edit: Edit) -> str:
        body = edit.request() | {"image": {"upload": self._upload(edit.side)}}
        job: dict[str, str] = self._client.post("/v1/jobs", json=body).raise_for_status().json()
        return job["id"]

    def _upload(self, side: int) -> str:
        if side not in self._uploads:
            files = {"file": ("picture.png", as_png(picture(side)))}
            self._uploads[side] = self._client.post("/v1/uploads", files=files).raise_for_status().json()["id"]
        return self._uploads[side]

    def _pause(self) -> None:
        with self._database.write() as connection:
            connection.execute(update(pools).where(pools.c.name == _POOL).values(paused_at=datetime.now(UTC)))

    def _release(self) -> datetime:
        """Let claims go on, and ring."""
        with self._database.write() as connection:
            connection.execute(update(pools).where(pools.c.name == _POOL).values(paused_at=None))
            released_at: datetime = connection.execute(select(func.clock_timestamp())).scalar_one()
        self.worker.ring()
        return released_at

    def _wait_for(self, names: Sequence[str]) -> None:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while (count := self._unfinished(names)) and time.monotonic() < deadline:
            self.worker.check()
            time.sleep(_POLL_SECONDS)
        if count:
            raise RuntimeError(f"{count} jobs are not done after {PATIENCE_SECONDS} s")
        if failed := self._count(names, jobs.c.state != JobState.SUCCEEDED):
            raise RuntimeError(f"{failed} jobs failed: {self._errors(names)}")

    def _unfinished(self, names: Sequence[str]) -> int:
        return self._count(names, jobs.c.finished_at.is_(None))

    def _count(self, names: Sequence[str], condition: object) -> int:
        statement = select(func.count()).select_from(jobs).where(jobs.c.id.in_(names), condition)  # type: ignore[arg-type]
        with self._database.read() as connection:
            return int(connection.execute(statement).scalar_one())

    def _errors(self, names: Sequence[str]) -> list[object]:
        statement = select(jobs.c.error).where(jobs.c.id.in_(names), jobs.c.error.is_not(None)).limit(3)
        with self._database.read() as connection:
            return list(connection.execute(statement).scalars())

    def _last_end(self, names: Sequence[str]) -> datetime:
        with self._database.read() as connection:
            last: datetime = connection.execute(
                select(func.max(jobs.c.finished_at)).where(jobs.c.id.in_(names))
            ).scalar_one()
        return last


@contextmanager
def whole(
    folder: Path, checkpoints: Path, start: Callable[[Stack], Worker] = ProcessWorker, **environment: str
) -> Iterator[Whole]:
    """A fresh stack in a folder, over these checkpoints, with one worker, which is there when the block begins."""
    folder.mkdir()
    models = folder / "tiny-models.toml"
    models.write_text(catalogue_text(checkpoints, {name for name in FAMILIES if (checkpoints / name).is_dir()}))
    settings = {
        "DARKROOM_DEVICE": "cpu",
        "DARKROOM_TORCH_THREADS": "1",
        "DARKROOM_LOG_FORMAT": "json",
        "DARKROOM_MODELS_FILE": str(models),
        "DARKROOM_BROKER_URL": bench_redis(),
    }
    with ExitStack() as opened:
        built, url = opened.enter_context(full_stack(folder, **(settings | environment)))
        worker = start(built)
        opened.callback(worker.stop)
        database = built.database
        opened.callback(database.close)
        yield Whole(built.settings, worker, opened.enter_context(httpx.Client(base_url=url, timeout=60)), database)


def bench_redis() -> str:
    """A Redis database beside that of the tests, which empty theirs."""
    server, _, number = REDIS.rpartition("/")
    return f"{server}/{int(number) + 1}"


def cpu_seconds(process: Process) -> float:
    """CPU time of a process so far (Linux)."""
    fields = Path(f"/proc/{process.popen.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
