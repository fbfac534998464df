"""Event streams for tests: the story of one job, and a server that tells it from wherever it is asked to."""

import json
from collections.abc import Callable, Iterator
from typing import Any, TypeAlias

import httpx

from tests.unit.client.serving import job

Told: TypeAlias = tuple[str, str, dict[str, Any]]

_IMAGE = {"content_type": "image/png", "url": "http://darkroom.test/…"}
IMAGES = [{"index": number, "seed": 42 + number} | _IMAGE for number in range(2)]
DONE = job("succeeded", version=3, images=IMAGES, progress={"value": 1.0, "step": 10, "steps": 10})


def status(version: int, word: str, **members: Any) -> Told:
    """A `status` event."""
    data = {"id": "job_1", "status": word, "version": version, "kind": word, "attempt": 1, "at": "…", "error": None}
    return "status", f"{version}.0", data | members


def progress(version: int, number: int, step: int = 0) -> Told:
    """A `progress` event."""
    members = {"value": step / 10, "step": step, "steps": 10, "eta_seconds": 10.0 - step}
    word = "running" if version > 1 else "queued"
    data = {"status": word, "version": version, "stage": "denoising" if step else None, "progress": members}
    return (
        "progress",
        f"{version}.{number}",
        data | {"queue": dict.fromkeys(("position", "is_lower_bound", "eta_seconds"))},
    )


def preview(version: int, number: int) -> Told:
    """A `preview` event."""
    data = {"url": "http://darkroom.test/v1/jobs/job_1/preview", "etag": f'"1.{number}"'}
    return "preview", f"{version}.{number}", data


STORY: list[Told] = [
    status(1, "queued", job=job("queued", version=1)),
    progress(1, 0),
    status(2, "running"),
    progress(2, 1, step=1),
    preview(2, 1),
    progress(2, 4, step=4),
    progress(2, 7, step=7),
    preview(2, 7),
    status(3, "succeeded"),
    ("output", "3.1", IMAGES[0]),
    ("output", "3.2", IMAGES[1]),
    ("done", "3.3", DONE),
]


def write(told: Told) -> bytes:
    """An event on the wire."""
    kind, event_id, data = told
    return f"event: {kind}\nid: {event_id}\ndata: {json.dumps(data)}\n\n".encode()


def streaming(*pieces: bytes | Exception, opening: bytes = b"retry: 1000\n\n") -> httpx.Response:
    """A stream of these pieces; an exception is how the connection breaks."""

    def flow() -> Iterator[bytes]:
        yield opening
        for piece in pieces:
            if isinstance(piece, Exception):
                raise piece
            yield piece

    return httpx.Response(200, headers={"Content-Type": "text/event-stream; charset=utf-8"}, content=flow())


def telling(*told: Told) -> Callable[[httpx.Request], httpx.Response]:
    """A stream of these events, which then ends."""
    return lambda request: streaming(*map(write, told))


def after(event_id: str | None) -> list[Told]:
    """What of the story a server sends to who has seen this."""
    if event_id is None:
        return STORY
    return [told for told in STORY if place(told[1]) > place(event_id)]


def place(event_id: str) -> tuple[int, ...]:
    """An id, comparable."""
    return tuple(map(int, event_id.split(".")))


def cut_after(bytes_sent: int, piece_bytes: int = 50) -> Callable[[httpx.Request], httpx.Response]:
    """The story, from where the client is, over a connection that breaks after so many bytes."""

    def answer(request: httpx.Request) -> httpx.Response:
        rest = b"".join(map(write, after(request.headers.get("Last-Event-ID"))))
        if not rest:
            return httpx.Response(204)
        pieces = [rest[at : at + piece_bytes] for at in range(0, min(bytes_sent, len(rest)), piece_bytes)]
        is_cut = bytes_sent < len(rest)
        return streaming(*pieces, *([httpx.ReadError("cut")] if is_cut else []))

    return answer
