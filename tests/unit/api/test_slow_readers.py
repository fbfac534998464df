"""Readers that take nothing, without a network, and readers that take it slowly, with one."""

import asyncio
import socket
import time
from pathlib import Path

import pytest
from sqlalchemy import insert, select
from starlette.requests import ClientDisconnect
from starlette.types import Message

from api.live.connection import EXTENSION, Line
from api.live.room import WaitingRoom
from api.live.stream import EventStream, Means
from api.live.telling import Telling
from api.live.watched import Sighting
from api.metrics import Metrics
from common.db.engine import Database
from common.db.jobs import find_job
from common.db.tables import images
from common.domain.outlook import UNKNOWN
from common.settings import Settings
from tests.making import submit
from tests.unit.api.serving import Served, serving


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


def test_a_burst_is_as_good_as_its_pieces_to_a_reader_that_takes_each_in_time() -> None:
    taken = []

    async def send(message: Message) -> None:
        await asyncio.sleep(0.1)
        taken.append((message["body"], message["more_body"]))

    burst = bytes(range(256)) * 400
    line = Line({"type": "http"}, send, stall_seconds=0.5)
    asyncio.run(line.write(burst, is_last=True))
    assert b"".join(piece for piece, _ in taken) == burst
    assert max(len(piece) for piece, _ in taken) <= 8192
    assert [is_more for _, is_more in taken] == [True] * (len(taken) - 1) + [False]


def test_a_slow_and_steady_reader_has_a_long_end_in_one_go(database: Database, tmp_path: Path) -> None:
    with serving(database, tmp_path, stream_stall_seconds=0.6) as served:
        job_id = served.api.submit()["id"]
        served.api.develop()
        with database.write() as connection:
            row = dict(connection.execute(select(images)).one()._mapping)
            connection.execute(insert(images), [row | {"index": n, "key": f"k{n}"} for n in range(1, 100)])
        told = read_slowly(served, f"/v1/jobs/{job_id}/events", bytes_a_second=50_000)
    assert told.count(b"event: output") == 100
    assert b"event: done" in told
    assert told.endswith(b"\n\n\r\n0\r\n\r\n"), "to the last byte"


def read_slowly(served: Served, path: str, bytes_a_second: int) -> bytes:
    """All that comes, until the server closes the connection."""
    host, _, port = served.url.removeprefix("http://").partition(":")
    told = bytearray()
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.settimeout(20)
        connection.connect((host, int(port)))
        connection.sendall(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode())
        while piece := connection.recv(1000):
            told += piece
            time.sleep(len(piece) / bytes_a_second)
    return bytes(told)
