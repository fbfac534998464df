"""`Darkroom.wait`: long polls, streams, and plain looks where neither can be had. Time is simulated."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import httpx
import pytest

from client.errors import ConnectionFailed, DarkroomAPIError, WaitTimeout
from client.sdk import Darkroom, Job
from tests.unit.client.serving import Server, answer, job, problem
from tests.unit.client.streams import DONE, STORY, cut_after, streaming, telling, write

WHOLE = 1 << 20


@dataclass
class Clocked:
    """A server that holds its answers as the API does; the job changes at these moments, in seconds."""

    changes: dict[float, str]
    refusal: httpx.Response | None = None
    is_hasty: bool = False  # answers long polls at once, as through a proxy that does not wait
    suggestion: str | None = None  # `Retry-After` of every answer
    now: float = 0.0
    requests: list[tuple[float, httpx.Request]] = field(default_factory=list)

    def client(self) -> Darkroom:
        transport = httpx.MockTransport(self._answer)
        return Darkroom("http://darkroom.test", transport=transport, sleep=self._sleep, clock=lambda: self.now)

    @property
    def version(self) -> int:
        return sum(moment <= self.now for moment in self.changes)

    @property
    def job(self) -> dict[str, Any]:
        return job([word for moment, word in self.changes.items() if moment <= self.now][-1], version=self.version)

    def polls(self, kind: str) -> list[httpx.Request]:
        return [request for _, request in self.requests if ("wait" in request.url.params) == (kind == "long")]

    def _sleep(self, seconds: float) -> None:
        self.now += seconds

    def _answer(self, request: httpx.Request) -> httpx.Response:
        self.requests.append((self.now, request))
        wait = int(request.url.params.get("wait", 0))
        if request.url.path.endswith("/events"):
            return problem(404, "not_found")
        if wait and self.refusal is not None:
            return answer(self.refusal.status_code, {"code": "refused"})
        if wait and not self.is_hasty:
            self._hold(wait, int(request.url.params["since"]))
        headers = {"ETag": f'"{self.version}"'} | ({"Retry-After": self.suggestion} if self.suggestion else {})
        if request.headers.get("If-None-Match") == headers["ETag"]:
            return httpx.Response(304, headers=headers)
        return answer(200, self.job, **headers)

    def _hold(self, wait: int, since: int) -> None:
        if self.version <= since and self.job["status"] in {"queued", "running"}:
            coming = [moment for moment in self.changes if moment > self.now]
            self.now = min([*coming[:1], self.now + wait])


SLOW = {0.0: "queued", 50.0: "running", 90.0: "succeeded"}


def test_a_wait_asks_the_server_to_answer_when_something_changes() -> None:
    server = Clocked(SLOW)
    assert server.client().wait("job_1").status == "succeeded"
    assert server.now == 90.0, "the end is known when it comes"
    first, *others = [request for _, request in server.requests]
    assert "wait" not in first.url.params, "the version must be known first"
    assert [request.url.params["since"] for request in others] == ["1", "2"]
    assert {request.url.params["wait"] for request in others} == {"50"}
    assert {request.extensions["timeout"]["read"] for request in others} == {80}, "longer than the server may hold it"


def test_a_job_in_hand_is_waited_for_from_its_own_version() -> None:
    server = Clocked({0.0: "queued", 0.03: "running", 0.05: "succeeded"})
    assert Job(server.job, server.client()).wait().status == "succeeded"
    assert server.now == 0.05, "a change is answered with the next question at once"
    assert [request.url.params["since"] for _, request in server.requests] == ["1", "2"]


def test_a_held_answer_keeps_to_the_timeout() -> None:
    server = Clocked(SLOW)
    with pytest.raises(WaitTimeout, match=r"job_1 is not finished after 65\.5 seconds"):
        server.client().wait("job_1", timeout=65.5)
    assert server.now == 65.5
    assert [request.url.params["wait"] for request in server.polls("long")] == ["50", "15"]


@pytest.mark.parametrize("show", [None, lambda one: None])
def test_the_last_look_is_when_the_time_is_up_however_long_the_server_would_pause(show: Callable[[Job], None]) -> None:
    server = Clocked({0.0: "queued", 19.9: "succeeded"}, refusal=httpx.Response(503), suggestion="30")
    assert server.client().wait("job_1", timeout=20, on_progress=show).status == "succeeded"
    assert server.now == 20


@pytest.mark.parametrize("show", [None, lambda one: None])
def test_a_wait_is_given_up_only_when_its_time_is_up(show: Callable[[Job], None]) -> None:
    server = Clocked(SLOW, refusal=httpx.Response(503), suggestion="30")
    with pytest.raises(WaitTimeout):
        server.client().wait("job_1", timeout=20, on_progress=show)
    assert (server.now, server.requests[-1][0]) == (20, 20)


@pytest.mark.parametrize("timeout", [0, 0.05, 0.7])
def test_a_short_patience_is_for_plain_looks(timeout: float) -> None:
    server = Clocked(SLOW)
    with pytest.raises(WaitTimeout):
        server.client().wait("job_1", timeout=timeout, since=1)
    assert server.now <= timeout
    assert not server.polls("long")


def test_answers_that_are_not_held_do_not_become_a_hot_loop() -> None:
    server = Clocked(SLOW, is_hasty=True)
    assert server.client().wait("job_1").status == "succeeded"
    assert len(server.requests) < 105, "the pace of plain polls: at most ten at first, then one a second"
    gaps = [later - earlier for (earlier, _), (later, _) in zip(server.requests[1:], server.requests[2:], strict=False)]
    assert sum(gap < 0.09 for gap in gaps) <= 2, "at once only after a change"


@pytest.mark.parametrize("code", [404, 405, 422, 500, 503])
def test_a_server_that_holds_no_answers_is_polled(code: int) -> None:
    server = Clocked(SLOW, refusal=httpx.Response(code))
    assert server.client().wait("job_1").status == "succeeded"
    assert 90 <= server.now <= 91
    assert 1 <= len(server.polls("long")) <= 7, "tried again now and then"


def test_an_answer_from_a_replica_that_lags_takes_nobody_back() -> None:
    words = [("queued", 1), ("running", 2), ("queued", 1), ("running", 2), ("succeeded", 3)]
    server = Server([answer(200, job(word, version=version)) for word, version in words])
    assert server.client().wait("job_1").status == "succeeded"
    assert [request.url.params.get("since") for request in server.requests] == [None, "1", "2", "2", "2"]
    assert len(server.waits) == 2


def test_what_is_wrong_with_the_job_is_raised() -> None:
    for wait in (lambda one: one.wait("job_1", since=1), lambda one: one.wait("job_1", on_progress=print)):
        with pytest.raises(DarkroomAPIError, match="about gone"):
            wait(Server([problem(410, "gone")]).client())


def seen_by(server: Server, **options: Any) -> tuple[Job, list[tuple[str, float]]]:
    seen: list[tuple[str, float]] = []

    def show(one: Job) -> None:
        seen.append((one.status, one.progress.value))

    return server.client().wait("job_1", on_progress=show, **options), seen


ALL = [("queued", 0.0), ("queued", 0.0), ("running", 0.0), ("running", 0.1), ("running", 0.4), ("running", 0.7)]
ALL += [("succeeded", 1.0)]


def test_progress_is_shown_from_the_events_without_a_single_poll() -> None:
    server = Server([problem(500, "unexpected")], streams=[telling(*STORY)])
    finished, seen = seen_by(server)
    assert (finished.raw, seen) == (DONE, ALL)
    assert (server.requests, server.waits) == ([], [])


def test_what_is_shown_is_a_job_as_the_server_writes_it() -> None:
    shown: list[Job] = []
    Server([problem(500, "unexpected")], streams=[telling(*STORY)]).client().wait("job_1", on_progress=shown.append)
    middle = shown[4].raw
    assert middle["progress"] == {"value": 0.4, "step": 4, "steps": 10, "eta_seconds": 6.0}
    assert (middle["id"], middle["version"], middle["stage"], middle["attempt"]) == ("job_1", 2, "denoising", 1)


def test_a_broken_stream_is_taken_up_again_and_nothing_is_shown_twice() -> None:
    server = Server([problem(500, "unexpected")], streams=[telling(*STORY[:5]), cut_after(WHOLE)])
    assert seen_by(server) == (Job(DONE, server.client()), ALL)
    assert server.requests == []


@pytest.mark.parametrize(
    "refusal", [problem(503, "unavailable"), problem(404, "not_found"), httpx.Response(200, text="hello")]
)
def test_where_there_is_no_stream_the_job_is_looked_at(refusal: httpx.Response) -> None:
    half = job("running", progress={"value": 0.5, "step": 5, "steps": 10})
    server = Server([answer(200, job()), answer(200, half), answer(200, job("succeeded"))], streams=[refusal])
    finished, seen = seen_by(server)
    assert (finished.status, seen) == ("succeeded", [("queued", 0.0), ("running", 0.5), ("succeeded", 0.0)])
    assert (len(server.connections), len(server.waits)) == (1, 2), "a stream that was never there is not waited for"


def test_a_stream_is_tried_again_after_a_while_of_looking() -> None:
    server = Server([answer(200, job("running"))], streams=[problem(503, "unavailable"), telling(*STORY)])
    finished, _ = seen_by(server)
    assert finished.raw == DONE
    assert 15 <= sum(server.waits) <= 16


def test_a_stream_that_stays_away_gives_way_to_looking() -> None:
    server = Server([answer(200, DONE)], streams=[telling(*STORY[:4])])
    finished, seen = seen_by(server)
    assert (finished.raw, seen[-1]) == (DONE, ("succeeded", 1.0))
    assert sum(server.waits) <= 30


def test_a_stream_that_says_nothing_at_all_gives_way_to_looking() -> None:
    server = Server([answer(200, DONE)], streams=[lambda _: streaming(httpx.ReadTimeout("silence"), opening=b"")])
    assert seen_by(server)[0].raw == DONE
    assert len(server.connections) == 1


def test_a_stream_ends_at_the_timeout() -> None:
    server = Server([problem(500, "unexpected")])

    def break_late(request: httpx.Request) -> httpx.Response:
        def flow() -> Any:
            yield write(STORY[0])
            server.waits.append(10.0)
            raise httpx.ReadError("cut")

        return httpx.Response(200, headers={"Content-Type": "text/event-stream"}, content=flow())

    server.streams = [break_late]
    with pytest.raises(WaitTimeout, match="job_1 is not finished after 10 seconds"):
        seen_by(server, timeout=10)
    assert sum(server.waits) == 10


def test_an_end_that_comes_late_is_still_the_end() -> None:
    server = Server([problem(500, "unexpected")])

    def dawdle(request: httpx.Request) -> httpx.Response:
        server.waits.append(11.0)
        return streaming(write(STORY[-1]))

    server.streams = [dawdle]
    assert seen_by(server, timeout=10)[0].raw == DONE


def test_what_the_callback_raises_is_raised() -> None:
    def fail(one: Job) -> None:
        raise ConnectionFailed("of the callback")

    server = Server([answer(200, DONE)], streams=[telling(*STORY)])
    with pytest.raises(ConnectionFailed, match="of the callback"):
        server.client().wait("job_1", on_progress=fail)


def test_a_submit_may_wait_for_the_end() -> None:
    server = Server([answer(200, job("succeeded"), Preference_Applied="wait=30")])
    handed_in: Callable[..., Job] = server.client(timeout=10).submit
    assert handed_in(prompt="a", wait=30).is_finished
    assert handed_in(prompt="a", image=b"bytes", wait=30).is_finished
    handed_in(prompt="a")
    waiting, form, plain = server.requests
    assert waiting.headers["Prefer"] == form.headers["Prefer"] == "wait=30"
    assert waiting.extensions["timeout"]["read"] == 40
    assert "Prefer" not in plain.headers
    assert b"wait" not in waiting.content
