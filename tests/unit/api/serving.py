"""The API behind its real server, on a thread of its own: what streams and hangs up needs a connection."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import uvicorn
from fastapi import FastAPI
from sqlalchemy import Connection, update

from api.main import create_app
from api.server import HttpProtocol, Server
from common.db.cleaning import clean_jobs
from common.db.engine import Database
from common.db.tables import jobs
from common.db.types import after_now
from common.domain.errors import Unavailable
from common.settings import Settings
from tests.unit.api.conftest import Api
from tests.unit.api.fakes import FakeDecoder, MemoryStore, RecordingBell
from tests.waiting import wait_until


class Meter(Database):
    """A database that counts its reads and can be made to go away."""

    def __init__(self, inner: Database) -> None:
        self.engine = inner.engine
        self._turn = inner._turn
        self.reads = 0
        self.is_away = False

    @contextmanager
    def read(self) -> Iterator[Connection]:
        self.reads += 1
        if self.is_away:
            raise Unavailable("away")
        with super().read() as connection:
            yield connection


@dataclass
class Served:
    """A running server with the hands of a worker (`api`), whose client speaks to it over the network."""

    api: Api
    url: str
    meter: Meter
    server: Server
    thread: threading.Thread
    others: list[httpx.Client] = field(default_factory=list)

    @property
    def client(self) -> httpx.Client:
        """A client of this server."""
        client: Any = self.api.client
        return client  # type: ignore[no-any-return]

    def waiters(self) -> float:
        """Open streams and long polls, by the metrics."""
        lines = self.client.get("/metrics").text.splitlines()
        return sum(float(line.split()[1]) for line in lines if line.startswith("darkroom_waiters{"))

    def until_waiting(self, count: int) -> None:
        """Return once so many connections wait."""
        wait_until(lambda: self.waiters() == count, what=f"{count} waiters")

    def expire(self, job_id: str) -> None:
        """The life of the job's results is over, and the cleaner has passed."""
        with self.api.database.write() as connection:
            connection.execute(update(jobs).where(jobs.c.id == job_id).values(expires_at=after_now(-1)))
            assert clean_jobs(connection) == 1

    def stop(self) -> None:
        """As SIGTERM does it; returns when the server has ended."""
        self.server.handle_exit(signal.SIGTERM, None)
        self.thread.join(20)
        assert not self.thread.is_alive(), "the server did not end"


@contextmanager
def serving(database: Database, folder: Path, **settings: Any) -> Iterator[Served]:
    """An API with these settings, for as long as the block runs."""
    own = Settings(_env_file=None, data_dir=folder, **settings)
    store, bell, decoder, draining = MemoryStore(), RecordingBell(), FakeDecoder(), threading.Event()
    meter = Meter(database)
    app = create_app(own, database=meter, store=store, doorbell=bell, decoder=decoder, draining=draining)
    server = _server(app, draining, own.linger_seconds)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        wait_until(lambda: server.started or not thread.is_alive(), what="the server")
        url = f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
        with httpx.Client(base_url=url, timeout=20, trust_env=False) as client:
            handed: Any = client
            yield Served(Api(handed, app, database, store, decoder, bell), url, meter, server, thread)
    finally:
        server.handle_exit(signal.SIGTERM, None)
        thread.join(20)


def _server(app: FastAPI, draining: threading.Event, linger_seconds: float) -> Server:
    config = uvicorn.Config(
        app,
        host="127.0.0.1",
        port=0,
        http=HttpProtocol,
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        timeout_graceful_shutdown=10,
    )
    return Server(config, draining, linger_seconds)


@dataclass
class Aside:
    """A call that goes on while the test does something else."""

    call: Callable[[], Any]
    answers: list[Any] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.thread = threading.Thread(target=lambda: self.answers.append(self.call()))
        self.thread.start()

    def answer(self) -> Any:
        """What it was answered; fails when that takes long."""
        self.thread.join(30)
        assert self.answers, "no answer"
        return self.answers[0]
