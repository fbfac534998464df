"""Fetching files from hosts that lie, drip, flood, break off and inflate."""

import gzip
import time
import zlib
from collections.abc import Callable

import pytest

from common.outbound.addresses import Policy
from common.outbound.errors import FetchFailed
from common.outbound.fetching import Fetched, Outbound
from tests.unit.outbound.hosts import Answers, Host, Script, Visit, answer, sends

POLICY = Policy(allow_http=True, allow_loopback=True)
PICTURE = bytes(range(256)) * 40
# The limit of a slow exchange in these tests, and what a loaded machine may add to it.
TOTAL_SECONDS, SLACK_SECONDS = 0.3, 5.0


def fetch(script: Script, *, max_bytes: int = 1 << 20, total_seconds: float = 10) -> Fetched:
    with Host(script) as host:
        url = f"http://127.0.0.1:{host.port}/a.png"
        return Outbound(POLICY, Answers()).fetch(url, max_bytes=max_bytes, total_seconds=total_seconds)


def failure(script: Script, *, max_bytes: int = 1 << 20, total_seconds: float = 10) -> FetchFailed:
    with pytest.raises(FetchFailed) as caught:
        fetch(script, max_bytes=max_bytes, total_seconds=total_seconds)
    assert caught.value.code == "input_fetch_failed"
    return caught.value


def coded(body: bytes, coding: str) -> bytes:
    return answer(body=body, headers=[("Content-Encoding", coding)])


def chunked(*chunks: bytes) -> bytes:
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    return head + b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks)


def flood(head: bytes, piece: bytes, sent: list[int]) -> Script:
    """A host that sends `piece` until the client goes away, and notes how many bytes it got rid of."""

    def script(visit: Visit) -> None:
        visit.send(head)
        while True:
            visit.send(piece)
            sent.append(len(piece))

    return script


@pytest.mark.parametrize("pack", [gzip.compress, zlib.compress])
def test_a_body_in_a_content_coding_is_decoded(pack: Callable[[bytes], bytes]) -> None:
    coding = "gzip" if pack is gzip.compress else "deflate"
    assert fetch(sends(coded(pack(PICTURE), coding)), max_bytes=len(PICTURE)).body == PICTURE


@pytest.mark.parametrize("data", [answer(body=PICTURE), chunked(PICTURE[:5], PICTURE[5:], b"")])
def test_a_body_of_exactly_the_limit_passes_and_one_byte_more_does_not(data: bytes) -> None:
    assert fetch(sends(data), max_bytes=len(PICTURE)).body == PICTURE
    error = failure(sends(data), max_bytes=len(PICTURE) - 1)
    assert f"at most {len(PICTURE) - 1} are allowed" in error.detail
    assert not error.retryable


def test_a_body_of_10_gb_is_cut_at_the_limit() -> None:
    sent: list[int] = []
    head = b"HTTP/1.1 200 OK\r\n\r\n"
    failure(flood(head, bytes(65536), sent), max_bytes=100_000)
    assert sum(sent) < 50 << 20


def test_a_declared_length_beyond_the_limit_is_refused_before_the_body() -> None:
    error = failure(sends(answer(length=10 << 30)), max_bytes=1000)
    assert "at most 1000" in error.detail


def test_a_body_shorter_than_declared_is_a_failure_that_may_pass() -> None:
    assert failure(sends(answer(body=PICTURE, length=len(PICTURE) + 1))).retryable


def test_a_body_longer_than_declared_is_read_as_far_as_declared() -> None:
    assert fetch(sends(answer(body=PICTURE, length=3))).body == PICTURE[:3]


@pytest.mark.parametrize("length", ["9" * 5000, "-1", "1, 2"])
def test_a_length_that_is_none_is_a_failure(length: str) -> None:
    failure(sends(f"HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\nabc".encode()))


def test_a_bomb_is_cut_at_the_limit_after_decompression() -> None:
    bomb = gzip.compress(bytes(64 << 20))
    assert len(bomb) < 1 << 17
    assert "at most 1048576" in failure(sends(coded(bomb, "gzip"))).detail


def test_a_coded_body_that_inflates_to_nothing_is_cut_at_the_limit() -> None:
    sent: list[int] = []
    head = b"HTTP/1.1 200 OK\r\nContent-Encoding: deflate\r\n\r\n\x78\x9c"
    empty_block = b"\x00\x00\x00\xff\xff"
    assert "at most 100000" in failure(flood(head, empty_block * 10_000, sent), max_bytes=100_000).detail


@pytest.mark.parametrize(
    ("body", "coding", "retryable"),
    [
        (b"no gzip", "gzip", False),
        (gzip.compress(PICTURE)[:-10], "gzip", True),
        (b"", "deflate", True),
        (PICTURE, "br", False),
        (gzip.compress(gzip.compress(PICTURE)), "gzip, gzip", False),
    ],
)
def test_a_broken_or_unknown_coding_is_a_failure(body: bytes, coding: str, retryable: bool) -> None:
    assert failure(sends(coded(body, coding))).retryable is retryable


@pytest.mark.parametrize(
    "script",
    [
        lambda visit: visit.drip(answer(body=PICTURE)),
        lambda visit: (visit.send(b"HTTP/1.1 200 OK\r\n\r\n"), visit.drip(PICTURE)),
        lambda visit: (visit.send(b"HTTP/1.1 200 OK\r\nX: "), visit.drip(b"x" * 10_000)),
        lambda visit: (visit.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1;"), visit.drip(PICTURE)),
        lambda visit: visit.drip(b"HTTP/1.1 100 Continue\r\n\r\n" * 1000),
        lambda visit: visit.connection.recv(1),
    ],
    ids=["status", "body", "headers", "chunk", "continue", "silence"],
)
def test_a_host_that_drips_or_is_silent_is_left_at_the_total_limit(script: Script) -> None:
    started = time.monotonic()
    error = failure(script, total_seconds=TOTAL_SECONDS)
    assert TOTAL_SECONDS <= time.monotonic() - started < TOTAL_SECONDS + SLACK_SECONDS
    assert "in time" in error.detail
    assert error.retryable


def test_the_total_limit_holds_over_all_redirects() -> None:
    def script(visit: Visit) -> None:
        visit.drip(b"HTTP/1.1 302 \r\n")
        visit.send(b"Location: /next\r\n\r\n")

    started = time.monotonic()
    assert "in time" in failure(script, total_seconds=TOTAL_SECONDS * 2).detail
    assert time.monotonic() - started < TOTAL_SECONDS * 2 + SLACK_SECONDS


@pytest.mark.parametrize(
    "script",
    [
        Visit.reset,
        lambda visit: (visit.send(answer(body=b"a", length=9)), visit.reset()),
        lambda visit: None,
        sends(b"SSH-2.0-OpenSSH\r\n"),
        sends(b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 100_000 + b"\r\n"),
        sends(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n"),
    ],
    ids=["reset", "reset in body", "closed", "not http", "headers", "chunk"],
)
def test_a_host_that_breaks_off_or_speaks_something_else_is_a_failure_that_may_pass(script: Script) -> None:
    assert failure(script).retryable


@pytest.mark.parametrize(
    ("status", "retryable"),
    [(204, False), (304, False), (403, False), (404, False), (302, False), (408, True), (429, True), (503, True)],
)
def test_only_status_200_is_a_picture(status: int, retryable: bool) -> None:
    error = failure(sends(b"HTTP/1.1 %d Status\r\nContent-Length: 0\r\n\r\n" % status))
    assert f"status {status}" in error.detail
    assert error.retryable is retryable
