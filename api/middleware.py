"""What surrounds every request, as plain ASGI: its id, its log line, its limits and its safety headers."""

import re
import secrets
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from threading import Event
from typing import Final

import structlog
from fastapi import Request
from starlette.datastructures import MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.errors import problem_response
from api.metrics import Metrics
from common.clock import monotonic_seconds
from common.domain.errors import Refusal

_GOOD_ID: Final = re.compile(r"[A-Za-z0-9._-]{1,128}")
_METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
_SAFETY_HEADERS: Final = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "X-Frame-Options": "DENY",
    "Cache-Control": "no-store",
}

_log = structlog.get_logger()


class BodyLimit:
    """Refuses a body above `max_bytes` with 413: at once when its length is declared, else where the limit is passed.

    Only for bodies that are read; nothing is buffered here. `exceptions`: other limits, by path.
    """

    def __init__(self, app: ASGIApp, max_bytes: int, exceptions: Mapping[str, int]) -> None:
        self._app = app
        self._max_bytes = max_bytes
        self._exceptions = exceptions

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See the class."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        seen, max_bytes = 0, self._exceptions.get(scope["path"], self._max_bytes)

        async def receive_some() -> Message:
            nonlocal seen
            if _declared_bytes(scope) > max_bytes:
                raise _too_large(max_bytes)
            message = await receive()
            seen += len(message.get("body", b""))
            if seen > max_bytes:
                raise _too_large(max_bytes)
            return message

        await self._app(scope, receive_some, send)


class Envelope:
    """The outermost layer: request id in and out, safety headers, access line, metrics, and 500 for the unforeseen."""

    def __init__(self, app: ASGIApp, metrics: Metrics, draining: Event) -> None:
        self._app = app
        self._metrics = metrics
        self._draining = draining

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See the class. A process that is stopping asks for the connection to be closed, so that the next request goes
        elsewhere.
        """
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        exchange = _Exchange(scope, send, _request_id(scope["headers"]), self._draining)
        scope.setdefault("state", {})["request_id"] = exchange.request_id
        with structlog.contextvars.bound_contextvars(request_id=exchange.request_id):
            await self._answer(exchange, receive)
            self._account(exchange)

    async def _answer(self, exchange: "_Exchange", receive: Receive) -> None:
        try:
            await self._app(exchange.scope, receive, exchange.send)
        except ClientDisconnect:
            _log.info("request.abandoned", method=exchange.method, route=exchange.route)
        except Exception:  # the edge of the API: whatever it is, the client gets a problem and we get the trace
            _log.exception("request.crashed", method=exchange.method, route=exchange.route)
            if exchange.status:
                raise  # half an answer is out: cut the connection
            await self._apologize(exchange, receive)

    async def _apologize(self, exchange: "_Exchange", receive: Receive) -> None:
        detail = "something went wrong on our side; the log has it under this request_id"
        response = problem_response(Request(exchange.scope), "internal", detail)
        await response(exchange.scope, receive, exchange.send)

    def _account(self, exchange: "_Exchange") -> None:
        seconds = monotonic_seconds() - exchange.began
        self._metrics.count_request(exchange.method, exchange.route, exchange.status, seconds)
        milliseconds = round(seconds * 1000, 1)
        level = _log.debug if exchange.is_probe else _log.info
        level("request", method=exchange.method, route=exchange.route, status=exchange.status, ms=milliseconds)


@dataclass(slots=True)
class _Exchange:
    """One request and what became of it; status 0 means that nobody was there to answer."""

    scope: Scope
    downstream: Send
    request_id: str
    draining: Event
    status: int = 0
    began: float = field(default_factory=monotonic_seconds)

    @property
    def method(self) -> str:
        method: str = self.scope["method"]
        return method if method in _METHODS else "other"

    @property
    def route(self) -> str:
        """The template of the path, so that ids and odd paths make neither labels nor log lines."""
        return getattr(self.scope.get("route"), "path", "unmatched")

    @property
    def is_probe(self) -> bool:
        return self.route in {"/healthz", "/readyz", "/metrics"}

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            headers = MutableHeaders(scope=message)
            headers["X-Request-Id"] = self.request_id
            if self.draining.is_set():
                headers["Connection"] = "close"
            for name, value in _SAFETY_HEADERS.items():
                headers.setdefault(name, value)
        await self.downstream(message)


def _request_id(headers: Iterable[tuple[bytes, bytes]]) -> str:
    given = [value.decode("latin-1") for name, value in headers if name == b"x-request-id"]
    if len(given) == 1 and _GOOD_ID.fullmatch(given[0]):
        return given[0]
    return f"req_{secrets.token_hex(12)}"


def _declared_bytes(scope: Scope) -> int:
    declared = [value for name, value in scope["headers"] if name == b"content-length"]
    return int(declared[0]) if declared and declared[0].isdigit() else 0


def _too_large(max_bytes: int) -> Refusal:
    return Refusal(f"the body is larger than {max_bytes} bytes", code="payload_too_large")
