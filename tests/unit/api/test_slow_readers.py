"""A reader that takes nothing, without a network: what is sent to it never goes out."""

import asyncio

import pytest
from starlette.requests import ClientDisconnect
from starlette.types import Message

from api.live.connection import EXTENSION
from api.live.room import WaitingRoom
from api.live.stream import EventStream, Means
from api.live.telling import Telling
from api.live.watched import Sighting
from api.metrics import Metrics
from common.db.engine import Database
from common.db.jobs import find_job
from common.domain.outlook import UNKNOWN
from common.settings import Settings
from tests.making import submit


class StoppedReader:
    """Takes the head of the answer and then nothing more."""

    def __init__(self) -> None:
        self.is_cut = asyncio.Event()
        self.is_narrow = False

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.body":
            await asyncio.Event().wait()

    async def receive(self) -> Message:
        await self.is_cut.wait()
        return {"type": "http.disconnect"}

    def narrow(self) -> None:
        self.is_narrow = True

    def abort(self) -> None:
        self.is_cut.set()


def test_a_reader_that_takes_nothing_is_cut_off_and_leaves_its_place(database: Database) -> None:
    job_id = submit(database).id
    with database.read() as connection:
        job = find_job(connection, "default", job_id)
    assert job is not None

    async def scene() -> tuple[StoppedReader, WaitingRoom]:
        reader, room = StoppedReader(), WaitingRoom(1, Metrics())
        means = Means(Settings(_env_file=None, stream_stall_seconds=0.05), database, room)
        sighting = Sighting(job, (), UNKNOWN, room.clock())
        stream = EventStream(means, sighting, Telling("http://127.0.0.1"))
        with pytest.raises(ClientDisconnect):
            await stream({"type": "http", "extensions": {EXTENSION: reader}}, reader.receive, reader.send)
        return reader, room

    reader, room = asyncio.run(scene())
    assert reader.is_narrow
    assert reader.is_cut.is_set()
    assert not room.is_full
