"""The heartbeat on a real database."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from PIL import Image
from sqlalchemy import Connection, select

from common.db.engine import Database
from common.db.tables import job_progress
from common.db.workers import WorkerCard
from common.settings import Settings
from tests.making import claim, enlist, submit
from worker.engine.port import FrameRef
from worker.heartbeat import Heartbeat
from worker.roster import Roster
from worker.watchdog import Watchdog


class Watching(Database):
    """A database that knows whether it is being written to."""

    def __init__(self, inner: Database) -> None:
        self.engine = inner.engine
        self._turn = inner._turn
        self.is_writing = False

    @contextmanager
    def write(self) -> Iterator[Connection]:
        with super().write() as connection:
            self.is_writing = True
            yield connection
        self.is_writing = False


class Picture:
    """A preview that may be encoded only while the database is left alone."""

    def __init__(self, database: Watching) -> None:
        self._database = database
        self.width = self.height = 8

    def resize(self, *_: Any) -> Image.Image:
        assert not self._database.is_writing, "others wait for this transaction"
        return Image.new("RGB", (32, 32))


def test_previews_are_encoded_before_the_database_is_written_to(database: Database) -> None:
    submit(database)
    worker = enlist(database)
    (job,) = claim(database, worker)
    watched, roster = Watching(database), Roster()
    assert roster.add(job)
    ref = FrameRef(job.id, job.fence, 0)
    held = roster.get(ref)
    assert held is not None
    held.has_joined, held.stage = True, "denoising"
    roster.preview(ref, Picture(watched))  # type: ignore[arg-type]
    Heartbeat(
        settings=Settings(_env_file=None),
        card=WorkerCard(worker, "default", "test", 1, "cpu"),
        database=watched,
        roster=roster,
        watchdog=Watchdog(60, lambda: 0.0),
        cancel=lambda job: None,
        resident=lambda: (),
        paces=lambda: None,
    ).run_once()
    with database.read() as connection:
        assert (connection.execute(select(job_progress.c.preview)).scalar_one() or b"").startswith(b"\xff\xd8")
