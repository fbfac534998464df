"""The proxy of the fault tests does to a connection what its methods say."""

import socket
import socketserver
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.faults.proxy import FaultProxy
from tests.waiting import wait_until


class _Echo(socketserver.BaseRequestHandler):
    """Sends back what comes, and notes it."""

    def handle(self) -> None:
        server = self.server
        assert isinstance(server, EchoServer)
        try:
            while data := self.request.recv(65536):
                server.heard += data
                self.request.sendall(data)
        except OSError:  # the fault that the test wanted
            pass


class EchoServer(socketserver.ThreadingTCPServer):
    """An echo on a free port; `heard` is everything that arrived."""

    daemon_threads = True
    heard = b""


@pytest.fixture
def echo() -> Iterator[EchoServer]:
    with EchoServer(("127.0.0.1", 0), _Echo) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def proxy(echo: EchoServer) -> Iterator[FaultProxy]:
    with FaultProxy(echo.server_address[1], seed=1) as running:
        yield running


@contextmanager
def connected(proxy: FaultProxy) -> Iterator[socket.socket]:
    with socket.create_connection(("127.0.0.1", proxy.port), timeout=10) as client:
        yield client


def says(client: socket.socket, text: bytes) -> bytes:
    """What comes back for this."""
    client.sendall(text)
    answer = b""
    while len(answer) < len(text) and (data := client.recv(65536)):
        answer += data
    return answer


def talk(proxy: FaultProxy) -> None:
    with connected(proxy) as client:
        client.sendall(b"a")
        drain(client)


def drain(client: socket.socket) -> None:
    while client.recv(2):
        continue


def is_silent(client: socket.socket) -> bool:
    client.settimeout(0.1)
    try:
        client.recv(1)
    except TimeoutError:
        return True
    finally:
        client.settimeout(10)
    return False


def test_it_passes_everything_on_until_told_otherwise(proxy: FaultProxy) -> None:
    with connected(proxy) as client:
        large = bytes(range(256)) * 4096
        sender = threading.Thread(target=client.sendall, args=(large,))
        sender.start()
        received = b""
        while len(received) < len(large):
            received += client.recv(65536)
        sender.join()
        assert received == large
        client.shutdown(socket.SHUT_WR)
        assert client.recv(1) == b""


def test_latency_delays_both_directions(proxy: FaultProxy) -> None:
    with connected(proxy) as client:
        assert says(client, b"quick") == b"quick"
        proxy.latency(0.1)
        began = time.monotonic()
        assert says(client, b"slow") == b"slow"
        assert time.monotonic() - began >= 0.2


def test_a_reset_ends_the_connections_of_this_moment_and_new_ones_work(proxy: FaultProxy) -> None:
    with connected(proxy) as old:
        assert says(old, b"a") == b"a"
        proxy.reset()
        with pytest.raises(ConnectionResetError):
            old.recv(1)
    with connected(proxy) as new:
        assert says(new, b"b") == b"b"


def test_resetting_ends_each_new_connection_too(proxy: FaultProxy) -> None:
    proxy.resetting()
    for _ in range(3):
        with pytest.raises(ConnectionResetError):
            talk(proxy)
    proxy.heal()
    with connected(proxy) as client:
        assert says(client, b"b") == b"b"


def test_a_blackhole_accepts_and_answers_nothing_and_lets_go_what_it_held_when_healed(
    proxy: FaultProxy, echo: EchoServer
) -> None:
    with connected(proxy) as old:
        assert says(old, b"a") == b"a"
        proxy.blackhole()
        with connected(proxy) as new:
            old.sendall(b"b")
            new.sendall(b"c")
            assert is_silent(old)
            assert is_silent(new)
            assert echo.heard == b"a"
            proxy.heal()
            assert old.recv(1) == b"b"
            assert new.recv(1) == b"c"


def test_a_stranded_connection_stays_silent_for_ever_and_new_ones_work(proxy: FaultProxy) -> None:
    with connected(proxy) as old:
        assert says(old, b"a") == b"a"
        proxy.strand()
        old.sendall(b"b")
        proxy.heal()
        with connected(proxy) as new:
            assert says(new, b"c") == b"c"
        assert is_silent(old)


def test_refused_connections_are_refused_until_healed(proxy: FaultProxy) -> None:
    with connected(proxy) as old:
        assert says(old, b"a") == b"a"
        proxy.refuse()
        with pytest.raises(ConnectionError):
            old.recv(1)
        for _ in range(3):
            with pytest.raises(ConnectionRefusedError):
                socket.create_connection(("127.0.0.1", proxy.port), timeout=10)
    proxy.heal()
    with connected(proxy) as new:
        assert says(new, b"b") == b"b"


def test_a_connection_is_cut_after_so_many_bytes_of_answers(proxy: FaultProxy, echo: EchoServer) -> None:
    with connected(proxy) as client:
        assert says(client, b"12345") == b"12345"
        proxy.cut_after(7, times=1)
        assert says(client, b"12345") == b"12345"
        client.sendall(b"67890")
        with pytest.raises(ConnectionResetError):
            drain(client)
    assert echo.heard == b"123451234567890"
    assert proxy.cuts == 1
    with connected(proxy) as client:
        assert says(client, b"1234567890") == b"1234567890"


def test_what_holds_the_pattern_arrives_and_its_answer_does_not(proxy: FaultProxy, echo: EchoServer) -> None:
    proxy.cut_when(b"COMMIT", times=1)
    with connected(proxy) as client:
        assert says(client, b"BEGIN; COM") == b"BEGIN; COM"
        client.sendall(b"MIT;")
        with pytest.raises(ConnectionResetError):
            client.recv(1)
    assert echo.heard == b"BEGIN; COMMIT;"
    assert proxy.cuts == 1
    with connected(proxy) as client:
        assert says(client, b"COMMIT;") == b"COMMIT;"


def test_the_same_seed_cuts_the_same_commits(echo: EchoServer) -> None:
    def cut_commits() -> list[int]:
        with FaultProxy(echo.server_address[1], seed=7) as proxy:
            proxy.cut_when(b"COMMIT", probability=0.3)
            return [number for number in range(20) if not survives(proxy)]

    def survives(proxy: FaultProxy) -> bool:
        with connected(proxy) as client:
            try:
                return says(client, b"COMMIT") == b"COMMIT"
            except ConnectionError:
                return False

    first = cut_commits()
    assert 0 < len(first) < 20
    assert cut_commits() == first


def test_a_canned_answer_takes_the_place_of_the_service(proxy: FaultProxy, echo: EchoServer) -> None:
    proxy.answer(b"HTTP/1.1 500 Internal Server Error\r\n\r\n")
    with connected(proxy) as client:
        client.sendall(b"GET /")
        assert client.recv(100).startswith(b"HTTP/1.1 500")
        assert client.recv(1) == b""
    assert echo.heard == b""


def test_it_knows_how_many_clients_are_connected(proxy: FaultProxy) -> None:
    with connected(proxy) as first, connected(proxy) as second:
        assert says(first, b"a") + says(second, b"b") == b"ab"
        assert proxy.connections == 2
    wait_until(lambda: proxy.connections == 0, what="the end of the connections")
