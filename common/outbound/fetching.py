"""Fetch what a user's URL leads to, and post to one, without ever going where the policy does not permit."""

import ssl
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final
from urllib.parse import urljoin

import httpcore
import httpx

from common.outbound.addresses import Policy
from common.outbound.answers import headers_of, media_type, start_of_body, whole_body
from common.outbound.deadline import Deadline
from common.outbound.dialling import VettedBackend
from common.outbound.errors import FetchFailed, UrlBlocked
from common.outbound.resolving import LOOKUP_SECONDS, Resolver, SystemResolver, resolve_public
from common.outbound.urls import Target, check_url

_REDIRECTS: Final = frozenset({301, 302, 303, 307, 308})
_IMAGES: Final = "image/png, image/jpeg, image/webp, */*;q=0.1"


@dataclass(frozen=True, slots=True)
class Fetched:
    """A whole file: `body` without content coding, the bare media type that the host claims, and where it was."""

    body: bytes
    content_type: str | None
    status: int
    final_url: str


@dataclass(frozen=True, slots=True)
class Posted:
    """An answer to a POST: header names are lower-case, `body_start` is what came of the body, up to the limit."""

    status: int
    headers: Mapping[str, str]
    body_start: bytes
    milliseconds: int


class Outbound:
    """Requests to users' URLs. Safe for use by many threads; keeps no connections, cookies or other state.

    The environment (proxies, certificate files) is not looked at. `ssl_context` replaces the usual authorities.
    """

    def __init__(
        self, policy: Policy, resolver: Resolver | None = None, *, ssl_context: ssl.SSLContext | None = None
    ) -> None:
        self._policy = policy
        self._resolver = resolver or SystemResolver()
        self._ssl_context = ssl_context or httpx.create_ssl_context(trust_env=False)

    def read(self, url: str) -> Target:
        """Refuse what its text alone tells, as `UrlBlocked`; no name is looked up."""
        return check_url(url, self._policy)

    def check(self, url: str) -> Target:
        """Refuse now what a request would refuse; the name is looked up, but nothing is connected to.

        For URLs that are kept: a request checks again, since names change. Raises `UrlBlocked`, or `FetchFailed`
        when the name cannot be looked up.
        """
        target = check_url(url, self._policy)
        resolve_public(target, self._policy, self._resolver)
        return target

    def fetch(self, url: str, *, max_bytes: int, total_seconds: float = 30, max_redirects: int = 3) -> Fetched:
        """GET a file, at most `max_bytes` after decompression, within `total_seconds` from name to last byte.

        Up to `max_redirects` are followed, each checked like the first URL. Raises `UrlBlocked`, or `FetchFailed`
        for everything but a whole answer of status 200.
        """
        deadline = Deadline(total_seconds)
        target = check_url(url, self._policy)
        for _ in range(max_redirects + 1):
            visited = self._visit(target, max_bytes, deadline)
            if isinstance(visited, Fetched):
                return visited
            target = visited
        raise FetchFailed(f"There are more than {max_redirects} redirects, which is all we follow.", retryable=False)

    def post(
        self,
        url: str,
        body: bytes,
        headers: Mapping[str, str],
        *,
        total_seconds: float = 15,
        max_response_bytes: int = 16 * 1024,
    ) -> Posted:
        """POST `body` once, within `total_seconds`; redirects are answers like others and are not followed.

        The status line is the answer: what follows it may be cut short, by us at `max_response_bytes` or the
        deadline or by the receiver. Raises `UrlBlocked`, or `FetchFailed` when there is no status. `headers` must
        not come from users; `Host` and what frames the message are set here.
        """
        started = time.monotonic()
        deadline = Deadline(total_seconds)
        target = check_url(url, self._policy)
        with _as_failure(target), self._exchange("POST", target, headers, body, deadline) as response:
            answered = headers_of(response)
            start = start_of_body(response, answered, max_response_bytes)
        milliseconds = round((time.monotonic() - started) * 1000)
        return Posted(response.status, answered, start, milliseconds)

    def _visit(self, target: Target, max_bytes: int, deadline: Deadline) -> Fetched | Target:
        """The file behind a URL, or where it redirects to."""
        with _as_failure(target), self._exchange("GET", target, {"accept": _IMAGES}, None, deadline) as response:
            headers = headers_of(response)
            if response.status in _REDIRECTS and "location" in headers:
                return _redirected(target, headers["location"], self._policy)
            body = whole_body(response, headers, max_bytes)
            return Fetched(body, media_type(headers), response.status, target.url)

    @contextmanager
    def _exchange(
        self, method: str, target: Target, headers: Mapping[str, str], body: bytes | None, deadline: Deadline
    ) -> Iterator[httpcore.Response]:
        """One request on a connection of its own, to an address that has just passed; its body is yet to be read."""
        lookup_seconds = min(LOOKUP_SECONDS, deadline.seconds_left())
        addresses = resolve_public(target, self._policy, self._resolver, limit_seconds=lookup_seconds)
        request = httpcore.Request(
            method,
            httpcore.URL(scheme=target.scheme, host=target.host, port=target.port, target=target.path),
            headers=_request_headers(target, headers, body),
            content=body,
        )
        backend = VettedBackend(addresses, target.port, deadline)
        with httpcore.HTTPConnection(request.url.origin, self._ssl_context, network_backend=backend) as connection:
            yield connection.handle_request(request)


def _request_headers(target: Target, headers: Mapping[str, str], body: bytes | None) -> list[tuple[str, str]]:
    framing = {"host": target.authority, "connection": "close", "accept-encoding": "identity"}
    length = {} if body is None else {"content-length": str(len(body))}
    given = {name.lower(): value for name, value in headers.items()}
    return list(({"user-agent": "darkroom"} | given | framing | length).items())


def _redirected(target: Target, location: str, policy: Policy) -> Target:
    try:
        return check_url(urljoin(target.url, location), policy)
    except UrlBlocked as error:
        raise UrlBlocked(f"The URL redirects to one that is refused. {error.detail}") from error
    except ValueError as error:
        raise UrlBlocked("The URL redirects to one that cannot be read.") from error


@contextmanager
def _as_failure(target: Target) -> Iterator[None]:
    """Raise what goes wrong on the network as `FetchFailed`."""
    try:
        yield
    except (httpcore.TimeoutException, TimeoutError) as error:
        raise FetchFailed(f"The host {target.host} did not answer in time.", retryable=True) from error
    except httpcore.ConnectError as error:
        if isinstance(error.__cause__, ssl.SSLError):
            retryable = not isinstance(error.__cause__, ssl.SSLCertVerificationError)
            raise FetchFailed(f"No trustworthy TLS connection to {target.host}.", retryable=retryable) from error
        raise FetchFailed(f"No connection to the host {target.host}.", retryable=True) from error
    except (httpcore.NetworkError, httpcore.ProtocolError) as error:
        raise FetchFailed(f"The answer of {target.host} broke off or is not HTTP.", retryable=True) from error
