"""Redirects: each hop is a URL of its own, checked, looked up and vetted like the first."""

import pytest

from common.outbound.errors import FetchFailed, UrlBlocked
from common.outbound.fetching import Outbound
from tests.unit.outbound.hosts import Answers, Host, Visit, answer, sends
from tests.unit.outbound.loopback import HERE, PICTURE, TRAP, policy, second_loopback


def redirect(location: str, status: int = 302) -> bytes:
    return answer(status, headers=[("Location", location)])


@second_loopback
@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_redirects_are_followed_each_to_its_own_vetted_address(status: int) -> None:
    resolver = Answers(one_example=[[HERE]], two_example=[["127.0.0.3"]])
    with Host(PICTURE, "127.0.0.3") as second:
        location = f"//two.example:{second.port}/b.png#part"
        with Host(sends(redirect(location, status))) as first:
            outbound = Outbound(policy(first.port, second.port), resolver)
            fetched = outbound.fetch(f"http://one.example:{first.port}/a/", max_bytes=100)
    assert fetched.final_url == f"http://two.example:{second.port}/b.png"
    assert [visit.peer for visit in first.visits + second.visits] == [HERE, "127.0.0.3"]
    assert second.visits[0].headers["host"] == f"two.example:{second.port}"


@second_loopback
@pytest.mark.parametrize(
    "location",
    [
        "http://127.0.0.2:{port}/",
        "http://trap.example:{port}/",
        "http://[::ffff:127.0.0.2]:{port}/",
        "http://0x7f.0.0.2:{port}/",
        "http://2130706434:{port}/",
        "http://user@one.example:{port}/",
        "http://[::1]/",
        "http://10.0.0.1/",
        "http://169.254.169.254/latest/meta-data/",
        "http://[64:ff9b::a9fe:a9fe]/",
        "http://[2002:7f00:2::]/",
        "http://one.example:22/",
        "file:///etc/passwd",
        "http://[::1",
        "gopher://one.example/",
    ],
)
def test_a_redirect_to_what_must_not_be_reached_is_refused_without_a_connection(location: str) -> None:
    resolver = Answers(one_example=[[HERE]], trap_example=[[TRAP]])
    with Host(PICTURE, TRAP) as trap, Host(sends(redirect(location.format(port=trap.port)))) as host:
        outbound = Outbound(policy(host.port, trap.port), resolver)
        with pytest.raises(UrlBlocked):
            outbound.fetch(f"http://one.example:{host.port}/", max_bytes=100)
    assert len(host.visits) == 1
    assert trap.visits == []


def test_a_redirect_that_is_refused_says_so() -> None:
    with Host(sends(redirect("ftp://one.example/"))) as host:
        outbound = Outbound(policy(host.port), Answers())
        with pytest.raises(UrlBlocked, match=r"redirects to one that is refused\. .*'ftp'; allowed is https or http"):
            outbound.fetch(f"http://{HERE}:{host.port}/", max_bytes=100)


@second_loopback
def test_a_redirect_to_the_same_name_is_looked_up_and_vetted_anew() -> None:
    resolver = Answers(one_example=[[HERE], [TRAP]])
    with Host(sends(redirect("/again"))) as host, pytest.raises(UrlBlocked):
        Outbound(policy(host.port), resolver).fetch(f"http://one.example:{host.port}/", max_bytes=100)
    assert resolver.lookups == ["one.example"] * 2
    assert len(host.visits) == 1


def test_no_more_redirects_are_followed_than_allowed() -> None:
    with Host(sends(redirect("/again"))) as host:
        outbound = Outbound(policy(host.port), Answers())
        with pytest.raises(FetchFailed, match="more than 3 redirects") as caught:
            outbound.fetch(f"http://{HERE}:{host.port}/", max_bytes=100)
    assert len(host.visits) == 4
    assert not caught.value.retryable


def test_exactly_the_allowed_redirects_lead_to_the_picture() -> None:
    def script(visit: Visit) -> None:
        hop = int(visit.request.split()[1][1:])
        (sends(redirect(f"/{hop + 1}")) if hop < 3 else PICTURE)(visit)

    with Host(script) as host:
        fetched = Outbound(policy(host.port), Answers()).fetch(f"http://{HERE}:{host.port}/0", max_bytes=100)
    assert fetched.final_url.endswith("/3")


def test_cookies_of_one_hop_are_not_sent_to_the_next() -> None:
    def script(visit: Visit) -> None:
        headers = [("Location", "/b"), ("Set-Cookie", "a=b; Path=/")]
        visit.send(answer(302, headers=headers) if b" /a " in visit.request else answer())

    with Host(script) as host:
        Outbound(policy(host.port), Answers()).fetch(f"http://{HERE}:{host.port}/a", max_bytes=100)
    assert len(host.visits) == 2
    assert "cookie" not in host.visits[1].headers
