"""Names: every answer must pass, and none may take long."""

import socket
import threading
from ipaddress import ip_address
from typing import Any

import pytest

from common.outbound.addresses import Policy
from common.outbound.errors import FetchFailed, LookupsBusy, NameUnknown, UrlBlocked
from common.outbound.resolving import SystemResolver, resolve_public
from common.outbound.urls import check_url
from tests.unit.outbound.hosts import Answers

PUBLIC = ["93.184.215.14", "2606:4700::1111"]
TARGET = check_url("https://pictures.example/a.png", Policy())


def test_all_public_answers_are_returned_in_order() -> None:
    found = resolve_public(TARGET, Policy(), Answers(pictures_example=[PUBLIC]))
    assert found == tuple(map(ip_address, PUBLIC))


@pytest.mark.parametrize(
    "other", ["10.0.0.1", "127.0.0.1", "169.254.169.254", "::1", "fe80::1%2", "64:ff9b::7f00:1", "::ffff:8.8.8.8"]
)
@pytest.mark.parametrize("is_first", [True, False])
def test_one_private_answer_among_public_ones_refuses_the_name(other: str, is_first: bool) -> None:
    answers = [other, *PUBLIC] if is_first else [*PUBLIC, other]
    with pytest.raises(UrlBlocked, match=r"pictures\.example") as caught:
        resolve_public(TARGET, Policy(), Answers(pictures_example=[answers]))
    assert other not in caught.value.detail


def test_an_odd_port_allowed_on_the_loopback_is_refused_when_the_name_turns_out_to_be_elsewhere() -> None:
    policy = Policy(allow_http=True, allow_loopback=True)
    target = check_url("http://localhost:9000/", policy)
    assert resolve_public(target, policy, Answers(localhost=[["127.0.0.1"]]))
    with pytest.raises(UrlBlocked):
        resolve_public(target, policy, Answers(localhost=[PUBLIC]))


def test_an_address_in_the_url_is_not_looked_up_but_judged_again() -> None:
    resolver = Answers()
    target = check_url("https://1.1.1.1/", Policy())
    assert resolve_public(target, Policy(), resolver) == (ip_address("1.1.1.1"),)
    loopback = check_url("https://127.0.0.1/", Policy(allow_loopback=True))
    with pytest.raises(UrlBlocked):
        resolve_public(loopback, Policy(), resolver)
    assert resolver.lookups == []


@pytest.mark.parametrize("resolver", [Answers(), Answers(pictures_example=[[]])])
def test_a_name_without_addresses_is_a_failure_that_may_pass(resolver: Answers) -> None:
    with pytest.raises(FetchFailed) as caught:
        resolve_public(TARGET, Policy(), resolver)
    assert (caught.value.code, caught.value.retryable) == ("input_fetch_failed", True)


def test_the_systems_resolver_knows_this_machine() -> None:
    assert ip_address("127.0.0.1") in SystemResolver().addresses("localhost", limit_seconds=10)


def test_a_lookup_that_hangs_ends_at_its_limit_and_its_slot_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    release = threading.Event()

    def hang(*_: Any, **__: Any) -> list[Any]:
        release.wait(10)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("1.1.1.1", 0))]

    monkeypatch.setattr(socket, "getaddrinfo", hang)
    resolver = SystemResolver(max_lookups=1)
    with pytest.raises(FetchFailed, match="in time"):
        resolve_public(TARGET, Policy(), resolver, limit_seconds=0.05)
    with pytest.raises(LookupsBusy):
        resolve_public(TARGET, Policy(), resolver, limit_seconds=0.05)
    release.set()
    assert resolver.addresses("other.example", limit_seconds=10) == [ip_address("1.1.1.1")]


@pytest.mark.parametrize("error", [socket.gaierror(socket.EAI_NONAME, "unknown"), UnicodeError("label too long")])
def test_what_the_systems_resolver_fails_with_is_a_failure(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr(socket, "getaddrinfo", fail)
    with pytest.raises(FetchFailed):
        resolve_public(TARGET, Policy(), SystemResolver())


def test_names_under_one_slow_parent_leave_three_quarters_of_the_slots_to_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    release = threading.Event()

    def look_up(host: bytes, *_: Any, **__: Any) -> list[Any]:
        if host.endswith(b".slow.example"):
            release.wait(10)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("1.1.1.1", 0))]

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    resolver = SystemResolver(max_lookups=8)
    outcomes = []
    for number in range(4):
        with pytest.raises((TimeoutError, LookupsBusy)) as caught:
            resolver.addresses(f"a{number}.slow.example", limit_seconds=0.05)
        outcomes.append(caught.type)
    assert outcomes == [TimeoutError, TimeoutError, LookupsBusy, LookupsBusy]
    assert resolver.addresses("well.other.example", limit_seconds=10) == [ip_address("1.1.1.1")]
    release.set()
    assert resolver.addresses("a9.slow.example", limit_seconds=10) == [ip_address("1.1.1.1")]


@pytest.mark.parametrize(
    ("number", "is_unknown"), [(socket.EAI_NONAME, True), (socket.EAI_AGAIN, False), (socket.EAI_FAIL, False)]
)
def test_a_name_that_does_not_exist_is_told_from_a_name_service_that_is_away(
    monkeypatch: pytest.MonkeyPatch, number: int, is_unknown: bool
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise socket.gaierror(number, "no")

    monkeypatch.setattr(socket, "getaddrinfo", fail)
    with pytest.raises(FetchFailed) as caught:
        resolve_public(TARGET, Policy(), SystemResolver())
    assert isinstance(caught.value, NameUnknown) == is_unknown
