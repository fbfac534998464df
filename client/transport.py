"""HTTP with patience: what failed on the way is tried again where that is safe, and the key goes to our server only."""

import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any, Final, TypeVar
from urllib.parse import quote, urlsplit

import httpx

from client.errors import ClientError, ConnectionFailed, DarkroomAPIError
from client.patience import RETRYABLE_STATUSES, parse_retry_after, retry_wait

Result = TypeVar("Result")

_LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})
_PAGE: Final = 100
_EVENT_STREAM: Final = "text/event-stream"


class Transport:
    """One server. Requests that may be repeated are tried again for up to `retry_seconds`."""

    def __init__(
        self,
        base_url: str,
        api_key: str | None,
        timeout: float,
        retry_seconds: float,
        *,
        transport: httpx.BaseTransport | None = None,
        sleep: Callable[[float], object] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.retry_seconds = retry_seconds
        self._timeout = timeout
        self.sleep = sleep
        self.clock = clock
        headers = {"Accept": "application/json"} | ({"Authorization": f"Bearer {api_key}"} if api_key else {})
        self._http = httpx.Client(
            base_url=base_url,
            headers=headers,
            timeout=timeout,
            transport=transport,
            follow_redirects=True,  # httpx drops the Authorization header when a redirect leads to another host
            trust_env=urlsplit(base_url).hostname not in _LOOPBACK,  # a proxy cannot reach this machine's loopback
        )

    def close(self) -> None:
        """Close every connection."""
        self._http.close()

    def request(
        self, method: str, path: str, *, may_repeat: bool, headers: Mapping[str, str] | None = None, **content: Any
    ) -> httpx.Response:
        """The answer, which is a success or 304. Raises `DarkroomAPIError` or `ConnectionFailed`."""
        give_up_at = self.clock() + self.retry_seconds
        attempt = 0
        while True:
            attempt += 1
            outcome = self._try(method, path, headers, content)
            if isinstance(outcome, httpx.Response) and (outcome.is_success or outcome.status_code == 304):
                return outcome
            wait = retry_wait(attempt, _retry_after(outcome))
            if not may_repeat or not _is_passing(outcome) or self.clock() + wait > give_up_at:
                raise _as_error(outcome, self._http.base_url)
            self.sleep(wait)

    def require_answer(self) -> None:
        """Try once whether anything answers at the address, whatever it says. Raises `ConnectionFailed`."""
        outcome = self._try("GET", "healthz", None, {})
        if isinstance(outcome, httpx.ConnectError | httpx.ConnectTimeout | httpx.UnsupportedProtocol):
            raise _as_error(outcome, self._http.base_url)

    def pages(self, path: str, filters: Mapping[str, str | None] | None = None) -> Iterator[dict[str, Any]]:
        """Every object of a list, page by page as they are asked for; a filter that is None is left out."""
        question = {name: value for name, value in (filters or {}).items() if value is not None}
        after: dict[str, str] = {}
        while True:
            answer = self.request("GET", path, may_repeat=True, params={"limit": str(_PAGE), **question, **after})
            page = read_body(answer)
            yield from page["data"]
            if not page["has_more"]:
                return
            after = {"after": page["next"]}

    def patience(self, seconds: float) -> httpx.Timeout:
        """For an answer that the server may hold back for so many seconds more than usual: `request(timeout=…)`."""
        return httpx.Timeout(self._timeout, read=self._timeout + seconds)

    @contextmanager
    def stream(
        self, path: str, headers: Mapping[str, str], *, silence_seconds: float, end_at: float | None = None
    ) -> Iterator[httpx.Response]:
        """One try at an event stream, for the block: a 200 to be read with `iter_bytes`, or 204.

        Raises `DarkroomAPIError` for a refusal, `ClientError` for any other answer, and `ConnectionFailed`, in the
        block too: when the connection breaks, when nothing comes for `silence_seconds`, and at `end_at` of the clock.
        """
        plain = {"Accept": _EVENT_STREAM, "Accept-Encoding": "identity", "Cache-Control": "no-store"}
        timeout = httpx.Timeout(self._timeout, read=silence_seconds)
        with self._opened(path, headers={**plain, **headers}, timeout=timeout) as answer:
            if answer.status_code != httpx.codes.NO_CONTENT and _content_type(answer) != _EVENT_STREAM:
                raise ClientError(f"{answer.url} does not answer as a Darkroom server does")
            with _cut_after(answer, None if end_at is None else end_at - self.clock()):
                yield answer

    @contextmanager
    def download(self, path: str, *, accept: str, params: Mapping[str, str] | None = None) -> Iterator[httpx.Response]:
        """One try at an answer of any size, for the block, to be read with `iter_bytes`.

        Raises `DarkroomAPIError` for a refusal, and `ConnectionFailed`, in the block too.
        """
        with self._opened(path, headers={"Accept": accept}, params=params) as answer:
            yield answer

    def insist(self, attempt: Callable[[], Result]) -> Result:
        """What `attempt` gives; it is made again for up to `retry_seconds` while it raises what may pass."""
        give_up_at = self.clock() + self.retry_seconds
        tries = 0
        while True:
            tries += 1
            try:
                return attempt()
            except ClientError as error:
                wait = retry_wait(tries, error.retry_after_seconds if isinstance(error, DarkroomAPIError) else None)
                if not may_pass(error) or self.clock() + wait > give_up_at:
                    raise
            self.sleep(wait)

    @contextmanager
    def _opened(self, path: str, **options: Any) -> Iterator[httpx.Response]:
        try:
            with self._http.stream("GET", path, **options) as answer:
                if not answer.is_success:
                    answer.read()
                    raise _as_error(answer, self._http.base_url)
                yield answer
        except httpx.RequestError as error:
            raise _as_error(error, self._http.base_url) from error

    def _try(
        self, method: str, path: str, headers: Mapping[str, str] | None, content: Mapping[str, Any]
    ) -> httpx.Response | httpx.RequestError:
        try:
            return self._http.request(method, path, headers=headers, **content)
        except httpx.RequestError as error:
            return error


def read_body(answer: httpx.Response) -> dict[str, Any]:
    """The JSON object of an answer. Raises `ClientError` for anything else."""
    try:
        body = answer.json()
    except ValueError:
        body = None
    if not isinstance(body, dict):
        raise ClientError(f"{answer.url} does not answer as a Darkroom server does")
    return body


def may_pass(error: ClientError) -> bool:
    """Whether the same request may succeed later, as when there was no answer."""
    if isinstance(error, DarkroomAPIError):
        return error.status in RETRYABLE_STATUSES or error.code == "idempotency_in_flight"
    return isinstance(error, ConnectionFailed)


def quoted(text: str) -> str:
    """An id as one part of a path, whatever is in it."""
    return quote(text, safe="")


@contextmanager
def _cut_after(answer: httpx.Response, seconds: float | None) -> Iterator[None]:
    """Break the connection when the block lasts this long: a read cannot be given up at a moment in any other way."""
    network = answer.extensions.get("network_stream")
    if seconds is None or network is None:
        yield
        return
    timer = threading.Timer(max(0.0, seconds), _shut_down, [network.get_extra_info("socket")])
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _shut_down(connection: socket.socket) -> None:
    with suppress(OSError):
        socket.socket.shutdown(connection, socket.SHUT_RDWR)  # under TLS too: nothing is to be said any more


def _content_type(answer: httpx.Response) -> str:
    return str(answer.headers.get("Content-Type", "")).partition(";")[0].strip().lower()


def _is_passing(outcome: httpx.Response | httpx.RequestError) -> bool:
    if isinstance(outcome, httpx.RequestError):
        return isinstance(outcome, httpx.TransportError) and not isinstance(outcome, httpx.UnsupportedProtocol)
    return outcome.status_code in RETRYABLE_STATUSES or _members(outcome).get("code") == "idempotency_in_flight"


def _retry_after(outcome: httpx.Response | httpx.RequestError) -> float | None:
    return parse_retry_after(outcome.headers) if isinstance(outcome, httpx.Response) else None


def _as_error(outcome: httpx.Response | httpx.RequestError, base_url: httpx.URL) -> DarkroomAPIError | ConnectionFailed:
    if isinstance(outcome, httpx.RequestError):
        error = ConnectionFailed(f"no answer from {base_url}: {outcome or type(outcome).__name__}")
        error.__cause__ = outcome
        return error
    members = _members(outcome)
    return DarkroomAPIError(
        outcome.status_code,
        str(members.get("code", f"http_{outcome.status_code}")),
        str(members.get("detail") or members.get("title") or outcome.reason_phrase),
        errors=members.get("errors") or (),
        request_id=members.get("request_id") or outcome.headers.get("X-Request-Id"),
        retryable=bool(members.get("retryable", outcome.status_code in RETRYABLE_STATUSES)),
        retry_after_seconds=_retry_after(outcome),
    )


def _members(response: httpx.Response) -> dict[str, Any]:
    try:
        members = response.json()
    except ValueError:
        return {}
    return members if isinstance(members, dict) else {}
