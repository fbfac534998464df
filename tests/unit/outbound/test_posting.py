"""Posting to receivers: the status is what counts, and nothing takes long or grows."""

import time

import pytest

from common.outbound.addresses import Policy
from common.outbound.errors import FetchFailed, UrlBlocked
from common.outbound.fetching import Outbound, Posted
from tests.unit.outbound.hosts import Answers, Host, Script, Visit, answer, sends

POLICY = Policy(allow_http=True, allow_loopback=True)
TOTAL_SECONDS, SLACK_SECONDS = 0.3, 5.0


def post(script: Script, *, body: bytes = b'{"a":1}', total_seconds: float = 10) -> tuple[Posted, Host]:
    with Host(script) as host:
        outbound = Outbound(POLICY, Answers())
        headers = {"Webhook-Id": "msg_1", "Content-Type": "application/json", "Host": "forged", "Connection": "x"}
        url = f"http://127.0.0.1:{host.port}/hook?a=b"
        return outbound.post(url, body, headers, total_seconds=total_seconds), host


@pytest.mark.parametrize("body", [b'{"a":1}', b"", b"x" * 200_000])
def test_a_receiver_gets_the_very_bytes_and_headers(body: bytes) -> None:
    headers = [("Retry-After", "5"), ("X-A", "1"), ("x-a", "2")]
    posted, host = post(sends(answer(202, b"thanks", headers)), body=body)
    assert (posted.status, posted.body_start) == (202, b"thanks")
    assert (posted.headers["retry-after"], posted.headers["x-a"]) == ("5", "1, 2")
    assert 0 <= posted.milliseconds < 10_000
    [visit] = host.visits
    assert visit.peer == "127.0.0.1"
    assert visit.request.startswith(b"POST /hook?a=b HTTP/1.1\r\n")
    assert visit.request.endswith(b"\r\n\r\n" + body)
    assert visit.headers["webhook-id"] == "msg_1"
    assert visit.headers["host"] == f"127.0.0.1:{host.port}"
    assert visit.headers["content-length"] == str(len(body))
    assert visit.request.lower().count(b"\r\nhost:") == 1


@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_a_redirect_is_an_answer_and_is_not_followed(status: int) -> None:
    posted, host = post(sends(answer(status, headers=[("Location", "/elsewhere")])))
    assert posted.status == status
    assert len(host.visits) == 1


@pytest.mark.parametrize("status", [400, 410, 429, 500, 503])
def test_a_refusal_is_an_answer(status: int) -> None:
    assert post(sends(answer(status)))[0].status == status


def test_an_answer_of_10_gb_is_cut_at_16_kib() -> None:
    def script(visit: Visit) -> None:
        visit.send(answer(length=10 << 30))
        while True:
            visit.send(b"x" * 65536)

    posted, _ = post(script)
    assert (posted.status, posted.body_start) == (200, b"x" * 16384)


@pytest.mark.parametrize(
    ("script", "start"),
    [
        (lambda visit: (visit.send(answer(200, b"part", length=9)), visit.reset()), b"part"),
        (sends(answer(200, b"part", length=9)), b"part"),
        (sends(answer(200, b"no gzip", [("Content-Encoding", "gzip")])), b""),
        (sends(answer(200, b"brotli", [("Content-Encoding", "br")])), b""),
    ],
    ids=["reset", "closed", "broken coding", "unknown coding"],
)
def test_a_status_counts_though_its_body_breaks_off(script: Script, start: bytes) -> None:
    posted, _ = post(script)
    assert posted.status == 200
    assert start.startswith(posted.body_start)  # a reset may overtake what was sent before it


def test_a_body_that_drips_ends_at_the_total_limit_with_what_came() -> None:
    def script(visit: Visit) -> None:
        visit.send(answer(length=9999))
        visit.drip(b"x" * 9999)

    started = time.monotonic()
    posted, _ = post(script, total_seconds=TOTAL_SECONDS)
    assert time.monotonic() - started < TOTAL_SECONDS + SLACK_SECONDS
    assert posted.status == 200
    assert 0 < len(posted.body_start) < 9999


@pytest.mark.parametrize(
    "script",
    [lambda visit: visit.drip(answer(200) * 100), lambda visit: visit.connection.recv(1)],
    ids=["drip", "silence"],
)
def test_a_receiver_without_a_status_is_left_at_the_total_limit(script: Script) -> None:
    started = time.monotonic()
    with pytest.raises(FetchFailed, match="in time"):
        post(script, total_seconds=TOTAL_SECONDS)
    assert time.monotonic() - started < TOTAL_SECONDS + SLACK_SECONDS


@pytest.mark.parametrize("script", [Visit.reset, lambda visit: None, sends(b"no http\r\n\r\n")])
def test_a_receiver_that_breaks_off_before_a_status_is_a_failure(script: Script) -> None:
    with pytest.raises(FetchFailed) as caught:
        post(script)
    assert caught.value.retryable


@pytest.mark.parametrize("url", ["https://10.0.0.1/", "https://user@example.com/", "https://localhost/", "http://x.y/"])
def test_a_blocked_receiver_is_refused_at_save_and_at_the_request(url: str) -> None:
    resolver = Answers()
    outbound = Outbound(Policy(), resolver)
    with pytest.raises(UrlBlocked):
        outbound.check(url)
    with pytest.raises(UrlBlocked):
        outbound.post(url, b"{}", {})
    assert resolver.lookups == []
