"""`Darkroom.events`: one stream over as many connections as it takes."""

import json

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from client.errors import ClientError, ConnectionFailed, DarkroomAPIError
from client.streaming import SILENCE_SECONDS, JobEvent, merge_event
from tests.unit.client.serving import Answer, Server, answer, job, problem
from tests.unit.client.streams import (
    DONE,
    STORY,
    Told,
    after,
    cut_after,
    place,
    preview,
    progress,
    status,
    streaming,
    telling,
    write,
)

WHOLE = 1 << 20
SETTLED = [told for told in STORY if told[0] in {"status", "output", "done"}]


def serving(*streams: Answer) -> Server:
    return Server([problem(500, "unexpected")], streams=list(streams))


def told_by(server: Server, **options: object) -> list[Told]:
    return [(event.kind, event.id, event.data) for event in server.client(**options).events("job_1")]


def asked_from(server: Server) -> list[str | None]:
    return [request.headers.get("Last-Event-ID") for request in server.connections]


def test_a_story_told_without_a_break_comes_as_it_is() -> None:
    server = serving(telling(*STORY))
    assert told_by(server) == STORY
    request = server.connections[0]
    assert (request.url.path, request.headers["Accept"]) == ("/v1/jobs/job_1/events", "text/event-stream")
    assert (asked_from(server), server.waits) == ([None], [])


def test_a_stream_ends_with_done_whatever_the_server_still_says() -> None:
    assert told_by(serving(telling(*STORY, status(4, "queued")))) == STORY


@pytest.mark.parametrize("number", range(len(STORY) - 1))
@pytest.mark.parametrize("end", [[], [httpx.ReadError("reset")], [httpx.RemoteProtocolError("early end")]])
def test_a_stream_cut_after_any_event_goes_on_as_if_it_was_not(number: int, end: list[Exception]) -> None:
    first = streaming(*map(write, STORY[: number + 1]), *end)
    server = serving(lambda _: first, cut_after(WHOLE))
    assert told_by(server) == [*STORY[: number + 1], *after(STORY[number][1])]
    assert asked_from(server) == [None, STORY[number][1]]


@given(cuts=st.lists(st.integers(0, 1500), max_size=12), piece_bytes=st.integers(1, 400))
def test_wherever_streams_are_cut_every_settled_event_comes_once_and_progress_never_goes_back(
    cuts: list[int], piece_bytes: int
) -> None:
    server = serving(*(cut_after(cut, piece_bytes) for cut in cuts), cut_after(WHOLE, piece_bytes))
    told = told_by(server, retry_seconds=1000)
    assert [one for one in told if one in SETTLED] == SETTLED
    assert {kind for kind, _, _ in told} <= {"status", "progress", "preview", "output", "done"}
    places = [place(event_id) for _, event_id, _ in told]
    assert places == sorted(places)


def test_a_server_that_repeats_itself_is_heard_once() -> None:
    server = serving(telling(*STORY[:4], *STORY[:4]), telling(*STORY))
    assert told_by(server) == STORY


def test_a_progress_under_the_same_id_is_news_only_if_it_says_something_else() -> None:
    moved = ("progress", "1.0", STORY[1][2] | {"queue": {"position": 3}})
    told = told_by(serving(telling(STORY[0], STORY[1], STORY[1], moved, STORY[0], *STORY[2:])))
    assert told == [STORY[0], STORY[1], moved, *STORY[2:]]


def test_old_progress_and_previews_are_left_out() -> None:
    late = [progress(2, 1, step=1), preview(2, 1)]
    assert told_by(serving(telling(*STORY[:8], *late, *STORY[8:], *late))) == STORY


def test_a_stream_can_be_taken_up_where_another_left_it() -> None:
    server = serving(cut_after(WHOLE))
    assert [event.id for event in server.client().events("job_1", since="2.7")] == ["3.0", "3.1", "3.2", "3.3"]
    assert asked_from(server) == ["2.7"]


def test_after_the_last_event_there_is_done_once_more() -> None:
    server = Server([answer(200, DONE)], streams=[httpx.Response(204)])
    assert list(server.client().events("job_1", since="3.3")) == [JobEvent("done", "3.4", DONE)]
    assert (len(server.connections), server.requests[0].url.path) == (1, "/v1/jobs/job_1")


def test_done_comes_even_if_the_results_expire_before_they_are_all_told() -> None:
    expired = DONE | {"images": []}
    server = Server([answer(200, expired)], streams=[telling(*STORY[:-2]), httpx.Response(204)])
    assert told_by(server) == [*STORY[:-2], ("done", "3.2", expired)]
    assert asked_from(server) == [None, "3.1"]


def test_a_job_that_is_erased_before_its_end_was_told_is_gone() -> None:
    server = Server([problem(410, "gone")], streams=[telling(*STORY[:-2]), httpx.Response(204)])
    with pytest.raises(DarkroomAPIError, match="about gone"):
        told_by(server)


def test_a_job_that_is_not_over_is_not_told_to_be() -> None:
    """As a replica that lags shows it."""
    server = Server(
        [answer(200, job("running"))], streams=[telling(*STORY[:-1]), httpx.Response(204), cut_after(WHOLE)]
    )
    assert told_by(server) == STORY


def test_events_of_a_later_release_are_passed_over() -> None:
    strange: list[Told] = [("mood", "2.2", {}), ("status", "later", {})]
    assert told_by(serving(telling(*STORY[:4], *strange, *STORY[4:]))) == STORY


@pytest.mark.parametrize("status_code", [401, 403, 404, 410, 422])
def test_a_refusal_that_will_stay_is_raised_at_once(status_code: int) -> None:
    server = serving(problem(status_code, "refused"))
    with pytest.raises(DarkroomAPIError) as caught:
        told_by(server)
    assert (caught.value.status, caught.value.detail, len(server.connections)) == (status_code, "about refused", 1)


def test_a_job_erased_meanwhile_is_gone() -> None:
    with pytest.raises(DarkroomAPIError) as caught:
        told_by(serving(telling(*STORY[:3]), problem(410, "gone")))
    assert caught.value.status == 410


@pytest.mark.parametrize("code", [429, 500, 502, 503, 504])
def test_a_passing_trouble_is_waited_out(code: int) -> None:
    server = serving(telling(*STORY[:3]), problem(code, "trouble"), httpx.ConnectError("away"), cut_after(WHOLE))
    assert told_by(server) == STORY
    assert all(0.5 <= wait <= 5 for wait in server.waits)


def test_what_a_refusal_asks_for_is_waited() -> None:
    server = serving(answer(503, {"code": "unavailable"}, Retry_After="7"), telling(*STORY))
    assert told_by(server) == STORY
    assert server.waits == [7.0]


def test_a_stream_says_how_soon_to_come_back() -> None:
    server = serving(lambda _: streaming(write(STORY[2]), opening=b"retry: 100\n\n"), cut_after(WHOLE))
    assert told_by(server) == STORY[2:]
    assert 0.05 <= server.waits[0] <= 0.1


def test_patience_ends_when_nothing_comes() -> None:
    server = serving(telling(*STORY[:3]))
    with pytest.raises(ConnectionFailed, match="away"):
        told_by(server, retry_seconds=20)
    assert 10 < sum(server.waits) <= 20
    assert server.waits[-1] <= 5


def test_a_stream_that_only_pings_is_followed_however_often_it_is_cut() -> None:
    server = serving(telling(*STORY[:2]), *[lambda _: streaming(b": ping\n\n")] * 50, cut_after(WHOLE))
    assert told_by(server, retry_seconds=20) == STORY
    assert min(server.waits[5:]) >= 2.5, "it does not become a hot loop"


def test_a_silent_stream_is_taken_for_dead() -> None:
    begun = map(write, STORY[:3])
    server = serving(lambda _: streaming(*begun, httpx.ReadTimeout("silence")), cut_after(WHOLE))
    assert told_by(server) == STORY
    assert {request.extensions["timeout"]["read"] for request in server.connections} == {SILENCE_SECONDS}


def test_what_is_no_event_stream_is_no_darkroom() -> None:
    with pytest.raises(ClientError, match="does not answer as a Darkroom server does"):
        told_by(serving(httpx.Response(200, text="<html>hello</html>")))


def test_an_event_that_is_no_json_is_said_to_be_wrong() -> None:
    broken = b"event: status\nid: 1.0\ndata: {\n\n"
    with pytest.raises(ClientError, match=r"the event 1\.0 of the stream"):
        told_by(serving(lambda _: streaming(broken)))


def test_a_job_tells_its_own_events() -> None:
    server = Server([answer(202, job(version=1))], streams=[telling(*STORY)])
    events = list(server.client().submit(prompt="a").events())
    assert events[-1] == JobEvent("done", "3.3", DONE)


def test_the_job_is_put_together_from_its_events() -> None:
    merged = {}
    seen = []
    for kind, event_id, data in json.loads(json.dumps(STORY)):
        merged = merge_event(merged, JobEvent(kind, event_id, data))
        seen.append((merged["status"], merged["version"], merged.get("stage"), merged["progress"]["step"]))
    assert seen[0] == ("queued", 1, None, 0)
    assert seen[3:7] == [
        ("running", 2, "denoising", 1),
        ("running", 2, "denoising", 1),
        ("running", 2, "denoising", 4),
        ("running", 2, "denoising", 7),
    ]
    assert merged == DONE
    assert set(merge_event(job(version=1), JobEvent(*STORY[2]))) == {*job(), "version", "attempt", "stage"}  # type: ignore[arg-type]


def test_a_start_after_a_claim_keeps_the_stage_and_a_new_status_forgets_it() -> None:
    running = job(version=2) | {"status": "running", "stage": "preparing"}
    started = merge_event(running, JobEvent("status", "3.0", {"status": "running", "version": 3, "attempt": 1}))
    queued = merge_event(started, JobEvent("status", "4.0", {"status": "queued", "version": 4, "attempt": 1}))
    assert (started["stage"], queued["stage"]) == ("preparing", None)
