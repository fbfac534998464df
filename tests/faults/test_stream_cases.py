"""Case 22: streams that are cut, that idle, and whose readers stop; and the end of an API under all of them."""

import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest

from tests.faults.deployment import Deployment, deployment
from tests.faults.scenes import WISH, accepted, scene
from tests.processes.harness import eventually, look_at, until_finished
from tests.told import LASTING, Told, follow, goes_back, lasting

pytestmark = pytest.mark.processes

PUBLIC = {"DARKROOM_PUBLIC_URL": "http://darkroom.test"}  # the same addresses in the events of every API
MAX_GROWTH_KB = 10_000  # of the process, and so much more for each stream
MAX_GROWTH_KB_A_STREAM = 80


class Reader:
    """A client that follows a job to its end, on a thread of its own. `cut_after`: so many events, then it comes again.

    It comes to each of the addresses in turn.
    """

    def __init__(self, urls: list[str], job_id: str, cut_after: int | None = None) -> None:
        self.told: list[Told] = []
        self.connections = 0
        self.error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, args=(urls, job_id, cut_after), daemon=True)
        self._thread.start()

    def _run(self, urls: list[str], job_id: str, cut_after: int | None) -> None:
        try:
            with ExitStack() as stack:
                clients = [stack.enter_context(httpx.Client(base_url=url, timeout=60, trust_env=False)) for url in urls]
                status = 200
                while status == 200:
                    after = self.told[-1].id if self.told else None
                    client = clients[self.connections % len(clients)]
                    self.connections += 1
                    status, _ = follow(client, job_id, after, most=cut_after, hear=self.told.append)
                assert status == 204
        except BaseException as error:
            self.error = error

    def end(self) -> list[Told]:
        """Everything that it was told."""
        self._thread.join(120)
        assert not self._thread.is_alive(), [event.id for event in self.told]
        if self.error:
            raise self.error
        return self.told


@pytest.mark.parametrize("job_count", [2, pytest.param(20, marks=pytest.mark.chaos)])
@pytest.mark.parametrize("is_killed", [False, True], ids=["in-peace", "with-a-kill"])
@pytest.mark.postgres
@pytest.mark.redis
def test_a_stream_cut_after_every_event_tells_the_same_as_an_uncut_one(
    tmp_path: Path, *, is_killed: bool, job_count: int
) -> None:
    settings = PUBLIC | {"DARKROOM_STUB_STEP_SECONDS": "0.1"}
    with deployment(tmp_path, apis=2, workers=0, couriers=0, **settings) as made:
        urls = [part.url for part in made.of_role("api")]
        with httpx.Client(base_url=urls[0], timeout=30, trust_env=False) as client:
            ids = accepted(client, job_count, num_inference_steps=20, num_images=3)
            readers = [(Reader(urls[:1], job_id), Reader(urls, job_id, 1)) for job_id in ids]
            eventually(lambda: all(one.told for pair in readers for one in pair), what="the start of every stream")
            client.patch(f"/v1/jobs/{ids[0]}", json={"tags": ["edited"]}).raise_for_status()
            made.start("worker")
            if is_killed:
                kill_at_work(made, ids[0])
            told = [(whole.end(), cut.end()) for whole, cut in readers]
            shown = {job_id: client.get(f"/v1/jobs/{job_id}").json() for job_id in ids}
            history = {job_id: follow(client, job_id, "0.0")[1] for job_id in ids}
    for job_id, (whole, cut) in zip(ids, told, strict=True):
        assert lasting(whole) == lasting(cut)
        assert lasting(whole)[0] == lasting(history[job_id])[0]
        assert [one.raw for one in of_kind(cut)[1:]] == [one.raw for one in of_kind(whole)[1:]], "byte for byte"
        places = [event.place for event in cut if event.kind in LASTING]
        assert len(places) == len(set(places))
        assert not goes_back(whole)
        assert not goes_back(cut)
        assert [event.data["version"] for event in whole if event.kind == "status"] == list(
            range(1, shown[job_id]["version"] + 1)
        )
        assert [event.data for event in whole if event.kind == "output"] == shown[job_id]["images"]
        assert (whole[-1].kind, whole[-1].data) == ("done", shown[job_id])
    assert any(event.kind == "progress" and event.place[1] for whole, _ in told for event in whole)
    kinds = [event.data["kind"] for event in told[0][0] if event.kind == "status"]
    assert kinds[:2] == ["job.queued", "job.edited"]
    assert ("job.requeued" in kinds) == is_killed
    assert readers[0][1].connections >= len(told[0][1])


def of_kind(events: list[Told]) -> list[Told]:
    return [event for event in events if event.kind in LASTING]


def kill_at_work(made: Deployment, job_id: str) -> None:
    """Kill the worker in the middle of the job, and start the next one."""
    worker = made.of_role("worker")[-1].name

    def is_under_way() -> bool:
        progress = look_at(made.database, job_id).progress
        return progress is not None and progress.step >= 4

    eventually(is_under_way, what="the middle of the job")
    made.kill(worker)
    made.parts[worker].process.wait()
    made.revive()


@contextmanager
def raw_stream(url: str, job_id: str, *, is_greeted: bool = True, receive_bytes: int = 0) -> Iterator[socket.socket]:
    """A stream on a plain socket; `is_greeted`: its first event has been read, and nothing since."""
    address = urlsplit(url)
    with socket.socket() as connection:
        if receive_bytes:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
        connection.settimeout(30)
        connection.connect((address.hostname, address.port))
        connection.sendall(f"GET /v1/jobs/{job_id}/events HTTP/1.1\r\nHost: {address.netloc}\r\n\r\n".encode())
        seen = b""
        while is_greeted and b"event: status" not in seen:
            seen += connection.recv(4096)
        yield connection


def waiters(client: httpx.Client) -> float:
    """Open streams and long polls."""
    lines = client.get("/metrics").text.splitlines()
    return sum(float(line.split()[1]) for line in lines if line.startswith("darkroom_waiters{"))


def resident_kb(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0])


@pytest.mark.parametrize("idle", [50, pytest.param(500, marks=pytest.mark.chaos)])
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads /proc")
def test_a_reader_that_takes_nothing_is_dropped_and_nobody_else_is_kept_waiting(tmp_path: Path, idle: int) -> None:
    settings = {"DARKROOM_STREAM_STALL_SECONDS": "1", "DARKROOM_STREAM_PING_SECONDS": "0.5"}
    with scene(tmp_path, **settings) as (built, _, client), ExitStack() as streams:
        pid, url = built.processes[0].popen.pid, str(client.base_url)
        job_id, *others = accepted(client, idle + 1)
        before = resident_kb(pid)
        for other in others:
            streams.enter_context(raw_stream(url, other))
        witness = Reader([url], job_id)
        stopped = streams.enter_context(raw_stream(url, job_id, receive_bytes=2048))
        eventually(lambda: waiters(client) == idle + 2, what="all streams")

        edits, slowest = edit_until(client, job_id, lambda: waiters(client) < idle + 2)

        assert waiters(client) == idle + 1
        assert "stream.stalled" in built.processes[0].log.read_text()
        assert is_cut(stopped)
        assert slowest < 10
        assert resident_kb(pid) - before < MAX_GROWTH_KB + MAX_GROWTH_KB_A_STREAM * idle
        client.post(f"/v1/jobs/{job_id}/cancel").raise_for_status()
        told = witness.end()
        assert [one.id for one in told if one.kind == "status"] == [f"{n}.0" for n in range(1, edits + 3)]
        built.processes[0].signal(signal.SIGTERM)
        assert built.processes[0].wait(15) == 0
        assert "rror" not in built.processes[0].log.read_text()


def edit_until(client: httpx.Client, job_id: str, is_enough: Callable[[], bool]) -> tuple[int, float]:
    """Change the job again and again, a status event each, at most for a minute: how often, and the slowest answer."""
    ends_at, count, slowest = time.monotonic() + 60, 0, 0.0
    while count % 20 or not is_enough():
        assert time.monotonic() < ends_at, f"not dropped after {count} events"
        began = time.monotonic()
        client.patch(f"/v1/jobs/{job_id}", json={"tags": [str(count)]}).raise_for_status()
        slowest = max(slowest, time.monotonic() - began)
        count += 1
    return count, slowest


def is_cut(connection: socket.socket) -> bool:
    """Whether the connection was broken off, and not ended in good order."""
    data = b""
    try:
        while piece := connection.recv(65536):
            data += piece
    except ConnectionResetError:
        return True
    return not data.endswith(b"0\r\n\r\n")


@pytest.mark.postgres
@pytest.mark.redis
def test_an_api_that_stops_ends_its_streams_in_good_order_and_their_clients_go_on_elsewhere(
    tmp_path: Path,
) -> None:
    with deployment(tmp_path, apis=2, workers=0, couriers=0, **PUBLIC) as made, ExitStack() as stack:
        first, second = made.of_role("api")
        clients = [
            stack.enter_context(httpx.Client(base_url=part.url, timeout=60, trust_env=False))
            for part in (first, second)
        ]
        job_id, other = accepted(clients[0], 2)
        for stopped in (job_id, other):
            stack.enter_context(raw_stream(first.url, stopped, receive_bytes=2048))
        told: list[Told] = []
        stream = threading.Thread(target=lambda: follow(clients[0], job_id, hear=told.append))
        stream.start()
        answers: list[httpx.Response] = []
        poll = threading.Thread(target=lambda: answers.append(httpx.get(f"{first.url}/v1/jobs/{job_id}?wait=60")))
        poll.start()
        eventually(lambda: waiters(clients[0]) == 4, what="all who wait")

        made.leave_dead(first.name)
        began = time.monotonic()
        made.kill(first.name, signal.SIGTERM)
        assert first.process.wait(30) == 0, first.process.log.read_text()
        assert time.monotonic() - began < 10, "it waited for streams"

        stream.join(10)
        poll.join(10)
        assert [event.id for event in told if event.kind == "status"] == ["1.0"], "ended without an error, not finished"
        assert answers[0].json()["status"] == "queued"
        made.start("worker")
        _, rest = follow(clients[1], job_id, told[-1].id)
        until_finished(made.database, other)
        assert [event.id for event in [*told, *rest] if event.kind in LASTING] == [
            *("1.0", "2.0", "3.0", "4.0", "4.1", "4.2")
        ]
        assert "rror" not in first.process.log.read_text()


def test_a_submit_that_waits_on_a_real_worker_answers_the_finished_job(tmp_path: Path) -> None:
    with scene(tmp_path) as (built, _, client):
        built.worker()
        answer = client.post("/v1/jobs", json=WISH, headers={"Prefer": "wait=60"}, timeout=70)
        assert (answer.status_code, answer.json()["status"]) == (200, "succeeded")
