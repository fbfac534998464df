"""A whole API on SQLite and in-memory parts, and the hands of a worker."""

import base64
import hashlib
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from sqlalchemy import func, select
from starlette.testclient import TestClient

from api.main import create_app
from common.db.claims import claim, finish, join
from common.db.engine import Database
from common.db.migrate import migrate
from common.db.reports import report_progress
from common.db.tables import jobs, objects
from common.db.workers import WorkerCard, register
from common.domain.job import ClaimedJob, Progress, StoredImage
from common.settings import Settings
from tests.unit.api.fakes import FakeDecoder, MemoryStore, RecordingBell, picture

Json = dict[str, Any]
WORKER = WorkerCard("wrk_1", "default", "host", 1, "cpu")


@dataclass
class Api:
    """The app under test with everything that it touches."""

    client: TestClient
    app: FastAPI
    database: Database
    store: MemoryStore
    decoder: FakeDecoder
    bell: RecordingBell = field(default_factory=RecordingBell)

    def submit(self, **members: Any) -> Json:
        """An accepted job; the answer's body."""
        response = self.client.post("/v1/jobs", json={"prompt": "a cat"} | members)
        assert response.status_code == 202, response.text
        body: Json = response.json()
        return body

    def count_jobs(self) -> int:
        with self.database.read() as connection:
            return connection.execute(select(func.count()).select_from(jobs)).scalar_one()

    def has_stored_nothing(self) -> bool:
        """No job, no object row, no object, no bell."""
        with self.database.read() as connection:
            rows = connection.execute(select(func.count()).select_from(objects)).scalar_one()
        return not (self.count_jobs() or rows or self.store.objects or self.bell.rings)

    def start(self) -> ClaimedJob:
        """A worker takes the next job onto its device."""
        with self.database.write() as connection:
            if not getattr(self, "_worker", False):
                register(connection, WORKER)
                self._worker = True
            (job,) = claim(
                connection, worker_id=WORKER.id, device="cpu", pool="default", limit=1, lease_seconds=60, alone=True
            )
            assert join(connection, job.id, job.fence, "cpu")
        return job

    def report(self, job: ClaimedJob, step: int, steps: int) -> None:
        with self.database.write() as connection:
            at = Progress("denoising", step, steps)
            report_progress(connection, job.tenant_id, job.id, job.fence, step, at)

    def develop(self, content: bytes = b"pixels") -> str:
        """A worker takes the next job and finishes it with one image; returns the job's id."""
        job = self.start()
        image = StoredImage(
            0, f"results/{job.id}.png", 7, 64, 64, "image/png", len(content), hashlib.sha256(content).hexdigest()
        )
        self.store.put(image.key, content, "image/png")
        with self.database.write() as connection:
            assert finish(connection, job, [image], {"run_ms": 5})
        return job.id


@pytest.fixture(scope="session")
def migrated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A migrated SQLite file, to be copied."""
    path = tmp_path_factory.mktemp("migrated") / "api.db"
    database = Database(f"sqlite:///{path}")
    migrate(database)
    database.close()
    return path


@pytest.fixture
def database(migrated: Path, tmp_path: Path) -> Iterator[Database]:
    path = shutil.copy(migrated, tmp_path / "api.db")
    database = Database(f"sqlite:///{path}")
    yield database
    database.close()


@pytest.fixture
def make_api(database: Database, tmp_path: Path) -> Iterator[Callable[..., Api]]:
    """Builds an API with these settings; all are closed at the end."""
    clients: list[TestClient] = []

    def make(*, decoder: Any = None, outbound: Any = None, vault: Any = None, **settings: Any) -> Api:
        store, bell, decoder = MemoryStore(), RecordingBell(), decoder or FakeDecoder()
        own = Settings(_env_file=None, data_dir=tmp_path, **settings)
        parts = {"store": store, "doorbell": bell, "decoder": decoder, "outbound": outbound, "vault": vault}
        app = create_app(own, database=database, **parts)
        client = TestClient(app, base_url="http://127.0.0.1:8000", follow_redirects=False)
        clients.append(client)
        client.__enter__()
        return Api(client, app, database, store, decoder, bell)

    yield make
    for client in clients:
        client.__exit__(None, None, None)


@pytest.fixture
def api(make_api: Callable[..., Api]) -> Api:
    return make_api()


def data_url(data: bytes | None = None) -> Json:
    """An `image` member of these bytes."""
    return {"data": "data:image/png;base64," + base64.b64encode(data or picture()).decode()}
