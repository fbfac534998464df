"""A Darkroom server made of answers: what the SDK's tests talk to. Time passes only when the SDK waits."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import httpx

from client.sdk import Darkroom

Answer = httpx.Response | Exception | Callable[[httpx.Request], httpx.Response]


@dataclass
class Server:
    """Gives its answers in order, the last one for ever, and keeps what it was asked.

    Asked for events it has none, as a server before there were any, unless it is given `streams`: these in order, and
    after the last of them no connection.
    """

    answers: list[Answer]
    streams: list[Answer] | None = None
    requests: list[httpx.Request] = field(default_factory=list)
    waits: list[float] = field(default_factory=list)
    connections: list[httpx.Request] = field(default_factory=list)

    def client(self, **options: Any) -> Darkroom:
        """A client of this server; `waits` collects how long it slept."""
        return Darkroom(
            "http://darkroom.test",
            transport=httpx.MockTransport(self._answer),
            sleep=self.waits.append,
            clock=lambda: sum(self.waits),
            **options,
        )

    def _answer(self, request: httpx.Request) -> httpx.Response:
        if request.url.path.endswith("/events"):
            return self._stream(request)
        answer = self.answers[min(len(self.requests), len(self.answers) - 1)]
        self.requests.append(request)
        return self._given(answer, request)

    def _stream(self, request: httpx.Request) -> httpx.Response:
        self.connections.append(request)
        if self.streams is None:
            return problem(404, "not_found")
        number = len(self.connections) - 1
        return self._given(self.streams[number] if number < len(self.streams) else httpx.ConnectError("away"), request)

    def _given(self, answer: Answer, request: httpx.Request) -> httpx.Response:
        if isinstance(answer, Exception):
            raise answer
        if isinstance(answer, httpx.Response):
            return httpx.Response(answer.status_code, headers=answer.headers, content=answer.content)
        return answer(request)


def job(status: str = "queued", **members: Any) -> dict[str, Any]:
    """A job as the API shows it."""
    return {"id": "job_1", "status": status, "progress": {"value": 0.0, "step": 0, "steps": 10}, **members}


def answer(status: int = 200, body: Any = None, **headers: str) -> httpx.Response:
    """An answer with a JSON body; underscores in header names stand for hyphens."""
    return httpx.Response(status, json=body, headers={name.replace("_", "-"): text for name, text in headers.items()})


def problem(status: int, code: str, **members: Any) -> httpx.Response:
    """A refusal."""
    return answer(status, {"status": status, "code": code, "detail": f"about {code}", **members})
