"""What a submit that waits for the end of its job holds on to meanwhile: its connection, nothing of what it sent."""

import socket
import tracemalloc
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from api.routes import jobs as routes
from common.db.engine import Database
from tests.unit.api.conftest import Api, data_url
from tests.unit.api.fakes import picture
from tests.unit.api.serving import Served, serving

MEGABYTES = 1 << 20
PADDED = b'{"prompt":"x"' + b" " * (4 * MEGABYTES) + b"}"
MEMBER = b'{"prompt":"x","image":%s}'
FORM = (
    b'--x\r\nContent-Disposition: form-data; name="prompt"\r\n\r\nx\r\n'
    b'--x\r\nContent-Disposition: form-data; name="strength"\r\n\r\n0.6\r\n'
    b'--x\r\nContent-Disposition: form-data; name="image"; filename="a.png"\r\n\r\n%s\r\n--x--\r\n'
)


@pytest.fixture
def served(database: Database, tmp_path: Path) -> Iterator[Served]:
    with serving(database, tmp_path) as served:
        yield served


@contextmanager
def submitting(served: Served, content_type: str, body: bytes) -> Iterator[None]:
    """A submit that waits for its job, for the length of the block; nothing of it is kept on this side."""
    head = f"POST /v1/jobs HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: {content_type}\r\nPrefer: wait=60\r\n"
    host, _, port = served.url.removeprefix("http://").partition(":")
    with socket.create_connection((host, int(port)), timeout=20) as connection:
        connection.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode())
        connection.sendall(body)
        yield


def large_picture() -> bytes:
    return picture() + b" " * (4 * MEGABYTES)


@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        ("application/json", PADDED),
        ("application/json", MEMBER % str(data_url(large_picture())).replace("'", '"').encode()),
        ("multipart/form-data; boundary=x", FORM % large_picture()),
    ],
    ids=["text", "member", "file"],
)
def test_a_submit_that_waits_holds_nothing_of_its_body(served: Served, content_type: str, body: bytes) -> None:
    with submitting(served, content_type, body):  # what is made once has been made
        served.until_waiting(1)
    served.until_waiting(0)
    tracemalloc.start()
    try:
        with ExitStack() as stack:
            for number in range(1, 4):
                stack.enter_context(submitting(served, content_type, body))
                served.until_waiting(number)
            served.api.store.objects.clear()  # what the store has is no memory of the API
            held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert held < 4 * MEGABYTES, "less than one of the three bodies"


def test_what_a_waiting_submit_knows_of_its_job_is_as_old_as_the_commit(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    room = api.app.state.services.room
    seen: list[float] = []
    rung: list[float] = []

    async def look(*_: Any, seen_at: float, **__: Any) -> None:
        seen.append(seen_at)

    monkeypatch.setattr(routes, "wait_for_end", look)
    monkeypatch.setattr(api.bell, "ring", lambda *_: rung.append(room.clock()))
    answer = api.client.post("/v1/jobs", json={"prompt": "x"}, headers={"Prefer": "wait=5"})
    assert answer.status_code == 202
    assert seen[0] < rung[0]
