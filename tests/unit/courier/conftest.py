"""A courier's tools on SQLite and a folder, with a resolver that says what it is told."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from common.catalogue_file import load_catalogue
from common.db.engine import Database
from common.db.intakes import insert_intakes
from common.db.jobs import find_job, insert_job
from common.domain.job import NewJob
from common.domain.snapshot import JobSnapshot
from common.images.sandbox import ImageDecoder, ImageLimits
from common.outbound.fetching import Outbound
from common.paces import Paces
from common.settings import Settings
from common.storage.local import LocalStore
from common.vault import open_vault
from courier.tools import Tools
from tests.making import make_job
from tests.unit.api.fakes import RecordingBell
from tests.unit.outbound.certificates import Authority
from tests.unit.outbound.hosts import Answers
from tests.unit.outbound.loopback import HERE, TRAP, policy

MAX_BYTES = 20_000
REQUEST = {"prompt": "a red circle", "model": "demo", "strength": 0.5, "num_inference_steps": 10}


@pytest.fixture(scope="session")
def decoder() -> Iterator[ImageDecoder]:
    with ImageDecoder(limits=ImageLimits(max_bytes=MAX_BYTES)) as opened:
        yield opened


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture
def make_tools(sqlite_database: Database, decoder: ImageDecoder, tmp_path: Path) -> Callable[..., Tools]:
    """Tools whose outbound requests may go to these ports of the loopback, and never to the trap's address."""

    def make(*ports: int, resolver: Any = None, **changes: Any) -> Tools:
        settings = Settings(_env_file=None, data_dir=tmp_path, max_image_bytes=MAX_BYTES)
        catalogue = load_catalogue(settings)
        database = changes.get("database", sqlite_database)
        answers = resolver or Answers(pictures_example=[[HERE]], trap_example=[[TRAP]])
        members: dict[str, Any] = {
            "settings": settings,
            "database": sqlite_database,
            "store": LocalStore(tmp_path / "store"),
            "decoder": decoder,
            "outbound": Outbound(policy(*ports), answers),
            "vault": open_vault(settings),
            "doorbell": RecordingBell(),
            "catalogue": catalogue,
            "paces": Paces(database, catalogue, fresh_seconds=settings.lease_seconds),
            "worker_id": "wrk_a",
        }
        return Tools(**members | changes)

    return make


def submit(database: Database, url: str, role: str = "image") -> NewJob:
    """A job that awaits the image at `url`."""
    job = make_job(request=REQUEST)
    with database.write() as connection:
        insert_job(connection, job)
        insert_intakes(connection, job.id, job.tenant_id, {role: url})
    return job


def look(database: Database, job: NewJob) -> JobSnapshot:
    with database.read() as connection:
        found = find_job(connection, "default", job.id)
    assert found is not None
    return found


@pytest.fixture
def settled(tmp_path: Path) -> Settings:
    return Settings(
        _env_file=None, data_dir=tmp_path, public_url="https://darkroom.example/", webhook_timeout_seconds=0.5
    )
