"""Bodies that come slowly: those that hold a place for nothing are refused, and their connection is closed."""

import asyncio
import socket
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from starlette.types import Message, Receive, Scope, Send

from api.body_pace import BodyPace, Pace, TooSlow
from common.db.engine import Database
from tests.unit.api.serving import serving

HEAD = (
    b"POST /v1/batches HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 100000\r\n"
    b"Content-Type: multipart/form-data; boundary=b\r\n\r\n--b\r\n"
)


def read(pace: Pace, parts: list[tuple[float, int]], *, pause: float = 0.0) -> int:
    """How many bytes an app got of a body whose parts come after so many seconds each; it pauses after each part."""
    got = 0

    async def app(_scope: Scope, receive: Receive, _send: Send) -> None:
        nonlocal got
        while (message := await receive())["more_body"]:
            got += len(message["body"])
            await asyncio.sleep(pause)

    async def scene() -> None:
        given = iter(parts)

        async def receive() -> Message:
            seconds, size = next(given, (0.0, 0))
            await asyncio.sleep(seconds)
            return {"type": "http.request", "body": bytes(size), "more_body": size > 0}

        async def send(_message: Message) -> None: ...

        await BodyPace(app, pace)({"type": "http"}, receive, send)

    asyncio.run(scene())
    return got


def test_a_silence_is_the_end() -> None:
    with pytest.raises(TooSlow, match=r"nothing of it came for 0\.05 seconds"):
        read(Pace(silence_seconds=0.05), [(0, 10), (10, 10)])


def test_a_byte_now_and_then_is_not_enough() -> None:
    with pytest.raises(TooSlow, match="less than 100 bytes of it came in"):
        read(Pace(window_seconds=0.05, least_bytes=100), [(0.01, 1)] * 1000)


def test_a_slow_and_steady_body_is_read_to_its_end() -> None:
    assert read(Pace(window_seconds=0.05, least_bytes=100), [(0.01, 50)] * 20) == 1000


def test_the_time_that_we_take_ourselves_does_not_count() -> None:
    assert read(Pace(silence_seconds=0.05, window_seconds=0.05, least_bytes=100), [(0, 1)] * 10, pause=0.02) == 10


def test_who_waits_behind_the_end_of_a_body_waits_as_long_as_it_likes() -> None:
    async def app(_scope: Scope, receive: Receive, _send: Send) -> None:
        assert not (await receive())["more_body"]
        assert (await receive())["type"] == "http.disconnect"

    async def scene() -> None:
        given = iter(
            [(0.0, {"type": "http.request", "body": b"", "more_body": False}), (0.2, {"type": "http.disconnect"})]
        )

        async def receive() -> Message:
            seconds, message = next(given)
            await asyncio.sleep(seconds)
            return message

        async def send(_message: Message) -> None: ...

        await BodyPace(app, Pace(silence_seconds=0.05))({"type": "http"}, receive, send)

    asyncio.run(scene())


def test_silent_clients_give_their_places_back(database: Database, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr("api.main.BodyPace", partial(BodyPace, pace=Pace(silence_seconds=0.3)))
    with serving(database, tmp_path) as served:
        host, _, port = served.url.removeprefix("http://").partition(":")
        silent = [socket.create_connection((host, int(port)), timeout=20) for _ in range(4)]
        for one in silent:
            one.sendall(HEAD)
        answer = served.client.post("/v1/batches", files={"manifest": ("m.jsonl", b'{"prompt": "x"}\n')})
        assert answer.status_code == 202, answer.text
        for one in silent:
            told = b"".join(iter(lambda one=one: one.recv(65536), b""))  # to the end: the connection is closed
            assert told.startswith(b"HTTP/1.1 408 ")
            assert b'"code": "request_timeout"' in told
            assert b"connection: close" in told.lower()
            one.close()
