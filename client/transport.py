"""HTTP with patience: what failed on the way is tried again where that is safe, and the key goes to our server only."""

import time
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import urlsplit

import httpx

from client.errors import ConnectionFailed, DarkroomAPIError
from client.patience import RETRYABLE_STATUSES, parse_retry_after, retry_wait

_LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})


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
        self._retry_seconds = retry_seconds
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
        give_up_at = self.clock() + self._retry_seconds
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

    def _try(
        self, method: str, path: str, headers: Mapping[str, str] | None, content: Mapping[str, Any]
    ) -> httpx.Response | httpx.RequestError:
        try:
            return self._http.request(method, path, headers=headers, **content)
        except httpx.RequestError as error:
            return error


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
    )


def _members(response: httpx.Response) -> dict[str, Any]:
    try:
        members = response.json()
    except ValueError:
        return {}
    return members if isinstance(members, dict) else {}
