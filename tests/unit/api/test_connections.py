"""What the server does to single connections, and how many of them it can have."""

import asyncio
import resource
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, cast

import pytest
import structlog

from api.descriptors import places_to_wait, raise_limit
from api.server import _HttpConnection
from tests.unit.api.conftest import Api


class Late:
    """A transport that has been closed since it was asked."""

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport

    def is_closing(self) -> bool:
        return False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)


class Ended(asyncio.Protocol):
    """Knows when its connection has ended."""

    def __init__(self) -> None:
        self.ended = asyncio.Event()

    def connection_lost(self, exc: Exception | None) -> None:
        self.ended.set()


@contextmanager
def loop_of(kind: str) -> Iterator[asyncio.Runner]:
    """Runs coroutines on the event loop of this library."""
    with asyncio.Runner(loop_factory=pytest.importorskip(kind).new_event_loop) as runner:
        yield runner


async def narrow_a_closed_one(wrap: Callable[[Any], Any]) -> None:
    """Make a connection narrow that has ended."""
    ours, theirs = socket.socketpair()
    with theirs:
        transport, protocol = await asyncio.get_running_loop().create_connection(Ended, sock=ours)
        transport.abort()
        await protocol.ended.wait()
        await asyncio.sleep(0)
        _HttpConnection(wrap(transport)).narrow()


async def narrow_an_open_one() -> int:
    """Make a connection narrow; how many bytes it may have to send before its writers wait."""
    ours, theirs = socket.socketpair()
    with theirs:
        transport, protocol = await asyncio.get_running_loop().create_connection(Ended, sock=ours)
        _HttpConnection(cast("asyncio.Transport", transport)).narrow()
        high = transport.get_write_buffer_limits()[1]
        transport.abort()
        await protocol.ended.wait()
    return high


@pytest.mark.parametrize("kind", ["asyncio", "uvloop"])
@pytest.mark.parametrize("wrap", [lambda transport: transport, Late], ids=["known", "unknown"])
def test_a_connection_that_has_ended_is_left_as_it_is(kind: str, wrap: Callable[[Any], Any]) -> None:
    with loop_of(kind) as runner:
        runner.run(narrow_a_closed_one(wrap))


@pytest.mark.parametrize("kind", ["asyncio", "uvloop"])
def test_an_open_connection_becomes_narrow(kind: str) -> None:
    with loop_of(kind) as runner:
        assert runner.run(narrow_an_open_one()) == 8192


@pytest.fixture
def limit() -> Iterator[Callable[[int], None]]:
    """Sets the soft limit of open files, for the length of the test."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    yield lambda soft: resource.setrlimit(resource.RLIMIT_NOFILE, (soft, before[1]))
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_the_limit_of_open_files_is_raised_as_far_as_it_goes_and_said_once(limit: Callable[[int], None]) -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    limit(600)
    with structlog.testing.capture_logs() as logs:
        raise_limit()
        raise_limit()
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    assert soft == (65536 if hard == resource.RLIM_INFINITY else hard)
    assert [(log["event"], log["before"]) for log in logs] == [("api.descriptors_raised", 600)]


@pytest.mark.parametrize(("descriptors", "places"), [(600, 344), (400, 144), (256, 1), (100, 1)])
def test_waiters_leave_descriptors_for_everything_else(
    limit: Callable[[int], None], descriptors: int, places: int
) -> None:
    limit(descriptors)
    with structlog.testing.capture_logs() as logs:
        assert places_to_wait(4000) == places
    assert [(log["log_level"], log["places"]) for log in logs] == [("warning", places)]


def test_fewer_waiters_than_descriptors_are_as_many_as_wished(limit: Callable[[int], None]) -> None:
    limit(600)
    with structlog.testing.capture_logs() as logs:
        assert places_to_wait(344) == 344
    assert logs == []


def test_an_api_with_few_descriptors_has_few_places(limit: Callable[[int], None], make_api: Callable[..., Api]) -> None:
    limit(400)
    assert make_api(max_waiters=4000).app.state.services.room._max_waiters == 144
