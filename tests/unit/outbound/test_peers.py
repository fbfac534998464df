"""Where the socket goes: to the vetted address and nowhere else, whatever names and proxies say."""

import pytest

from common.outbound import dialling
from common.outbound.addresses import IPAddress, Policy
from common.outbound.errors import FetchFailed, UrlBlocked
from common.outbound.fetching import Outbound
from tests.unit.outbound.certificates import Authority
from tests.unit.outbound.hosts import Answers, Host, answer, sends, unused_port
from tests.unit.outbound.loopback import HERE, PICTURE, TRAP, policy, second_loopback


def test_the_socket_goes_to_the_vetted_address_and_host_names_the_name() -> None:
    resolver = Answers(pictures_example=[[HERE]])
    with Host(PICTURE) as host:
        url = f"http://pictures.example:{host.port}/a.png?b=c"
        fetched = Outbound(policy(host.port), resolver).fetch(url, max_bytes=100)
    assert (fetched.body, fetched.content_type, fetched.status) == (b"picture", "image/png", 200)
    assert fetched.final_url == url
    [visit] = host.visits
    assert visit.peer == HERE
    assert visit.request.startswith(b"GET /a.png?b=c HTTP/1.1\r\n")
    assert visit.headers["host"] == f"pictures.example:{host.port}"
    assert visit.headers["connection"] == "close"
    assert not {"cookie", "authorization", "referer"} & set(visit.headers)


def test_tls_asks_for_the_name_and_verifies_it_while_the_socket_goes_to_the_address(authority: Authority) -> None:
    resolver = Answers(pictures_example=[[HERE]])
    with Host(PICTURE, tls=authority.server_context("pictures.example")) as host:
        outbound = Outbound(policy(host.port), resolver, ssl_context=authority.client_context())
        fetched = outbound.fetch(f"https://pictures.example:{host.port}/", max_bytes=100)
    assert fetched.body == b"picture"
    [visit] = host.visits
    assert (visit.peer, visit.sni) == (HERE, "pictures.example")
    assert visit.headers["host"] == f"pictures.example:{host.port}"


def test_a_certificate_for_another_name_is_refused(authority: Authority) -> None:
    resolver = Answers(pictures_example=[[HERE]])
    with Host(PICTURE, tls=authority.server_context("other.example")) as host:
        outbound = Outbound(policy(host.port), resolver, ssl_context=authority.client_context())
        with pytest.raises(FetchFailed, match="TLS") as caught:
            outbound.fetch(f"https://pictures.example:{host.port}/", max_bytes=100)
    assert not caught.value.retryable
    assert host.visits[0].request == b""


def test_a_certificate_that_nobody_vouches_for_is_refused(
    authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(authority.file))
    resolver = Answers(pictures_example=[[HERE]])
    with Host(PICTURE, tls=authority.server_context("pictures.example")) as host:
        outbound = Outbound(policy(host.port), resolver)
        with pytest.raises(FetchFailed, match="TLS"):
            outbound.post(f"https://pictures.example:{host.port}/", b"{}", {})
    assert host.visits[0].request == b""


def test_a_name_is_looked_up_once_so_a_second_answer_cannot_lead_elsewhere() -> None:
    resolver = Answers(pictures_example=[[HERE], [TRAP]])
    with Host(PICTURE) as host:
        Outbound(policy(host.port), resolver).fetch(f"http://pictures.example:{host.port}/", max_bytes=100)
    assert resolver.lookups == ["pictures.example"]
    assert [visit.peer for visit in host.visits] == [HERE]


def test_the_address_dialled_is_the_one_that_passed(monkeypatch: pytest.MonkeyPatch) -> None:
    dialled: list[tuple[str, int]] = []

    def refuse(address: IPAddress, port: int, limit_seconds: float) -> None:
        dialled.append((str(address), port))
        raise ConnectionRefusedError

    monkeypatch.setattr(dialling, "dial", refuse)
    public = ["93.184.215.14", "2606:4700::1111"]
    with pytest.raises(FetchFailed, match="No connection"):
        Outbound(Policy(), Answers(pictures_example=[public, [HERE]])).fetch("https://pictures.example/", max_bytes=1)
    assert dialled == [(address, 443) for address in public]


@second_loopback
def test_a_name_that_is_rebound_between_save_and_request_is_refused_without_a_connection() -> None:
    resolver = Answers(hook_example=[[HERE], [TRAP]])
    with Host(PICTURE, TRAP) as trap:
        outbound = Outbound(policy(trap.port), resolver)
        url = f"http://hook.example:{trap.port}/"
        assert outbound.check(url).host == "hook.example"
        with pytest.raises(UrlBlocked):
            outbound.post(url, b"{}", {})
    assert trap.visits == []


def test_a_name_with_one_private_answer_of_two_is_refused_without_a_connection() -> None:
    with Host(PICTURE) as host:
        outbound = Outbound(policy(host.port), Answers(pictures_example=[[HERE, "10.0.0.1"]]))
        for attempt in (outbound.check, lambda url: outbound.fetch(url, max_bytes=1)):
            with pytest.raises(UrlBlocked):
                attempt(f"http://pictures.example:{host.port}/")
    assert host.visits == []


@second_loopback
def test_the_next_address_is_tried_when_the_first_refuses() -> None:
    with Host(PICTURE, "127.0.0.3") as host:
        resolver = Answers(pictures_example=[["127.0.0.4", "127.0.0.3"]])
        Outbound(policy(host.port), resolver).fetch(f"http://pictures.example:{host.port}/", max_bytes=100)
    assert [visit.peer for visit in host.visits] == ["127.0.0.3"]


def test_proxies_of_the_environment_are_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    with Host(sends(answer(502))) as proxy, Host(PICTURE) as host:
        for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
            monkeypatch.setenv(name, f"http://{HERE}:{proxy.port}")
            monkeypatch.setenv(name.lower(), f"http://{HERE}:{proxy.port}")
        outbound = Outbound(policy(host.port), Answers(pictures_example=[[HERE]]))
        url = f"http://pictures.example:{host.port}/"
        assert outbound.fetch(url, max_bytes=100).status == 200
        assert outbound.post(url, b"{}", {}).status == 200
    assert len(host.visits) == 2
    assert proxy.visits == []


def test_a_host_where_nobody_listens_is_a_failure_that_may_pass() -> None:
    with unused_port() as port, pytest.raises(FetchFailed, match="No connection") as caught:
        Outbound(policy(port), Answers()).post(f"http://{HERE}:{port}/", b"{}", {})
    assert caught.value.retryable
