"""The event stream of a job, over a real connection."""

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import insert, update

from api.live.watched import Sighting
from common.db import claims, erasing, reports, rescue
from common.db.engine import Database
from common.db.jobs import cancel_job
from common.db.tables import jobs, tenants
from common.db.types import after_now
from common.ids import new_id
from tests.making import make_image
from tests.told import Told, follow, goes_back, lasting, read_told
from tests.unit.api.serving import Aside, Served, serving
from tests.waiting import wait_until

Serve = Callable[..., Served]


@pytest.fixture
def serve(database: Database, tmp_path: Path) -> Iterator[Serve]:
    with ExitStack() as stack:
        yield lambda **settings: stack.enter_context(serving(database, tmp_path, **settings))


@pytest.fixture
def served(serve: Serve) -> Served:
    return serve()


class Listener:
    """A stream that is read aside; what has been told so far can be looked at."""

    def __init__(self, served: Served, job_id: str, after: str | None = None) -> None:
        self.told: list[Told] = []
        self.lines: list[str] = []
        self.headers = httpx.Headers()
        self._aside = Aside(lambda: self._listen(served.url, job_id, after))
        wait_until(lambda: self.headers or not self._aside.thread.is_alive(), what="the start of the stream")

    def _listen(self, url: str, job_id: str, after: str | None) -> bool:
        headers = {"Last-Event-ID": after} if after else {}
        with (
            httpx.Client(base_url=url, timeout=20, trust_env=False) as client,
            client.stream("GET", f"/v1/jobs/{job_id}/events", headers=headers) as answer,
        ):
            self.headers = answer.headers
            for event in read_told(self._seen(answer.iter_lines())):
                self.told.append(event)
        return True

    def _seen(self, lines: Iterator[str]) -> Iterator[str]:
        for line in lines:
            self.lines.append(line)
            yield line

    def kinds(self) -> list[str]:
        return [event.kind for event in self.told]

    def until(self, condition: Callable[[Told], object]) -> Told:
        """The first event like this, once it has come."""
        wait_until(lambda: any(map(condition, list(self.told))), what="the event")
        return next(filter(condition, self.told))

    def end(self) -> list[Told]:
        """Everything, once the stream has ended in good order."""
        assert self._aside.answer()
        return self.told


def submitted(served: Served, **members: Any) -> str:
    job_id: str = served.api.submit(**members)["id"]
    return job_id


def is_version(version: int) -> Callable[[Told], bool]:
    return lambda event: event.kind == "status" and event.data["version"] == version


def test_a_fresh_stream_begins_with_the_job_as_it_is_now(served: Served) -> None:
    job_id = submitted(served)
    status, (first,) = follow(served.client, job_id, most=1)
    shown = served.client.get(f"/v1/jobs/{job_id}").json()

    assert (status, first.kind, first.id) == (200, "status", "1.0")
    assert first.data["job"] == shown
    about = {name: value for name, value in first.data.items() if name not in {"job", "at"}}
    expected = {"id": job_id, "status": "queued", "version": 1, "kind": "job.queued", "attempt": 0, "error": None}
    assert about == expected


def test_a_stream_says_what_it_is_and_is_kept_by_nobody(served: Served) -> None:
    job_id = submitted(served)
    with served.client.stream("GET", f"/v1/jobs/{job_id}/events") as answer:
        headers = answer.headers
        assert next(answer.iter_lines()) == "retry: 1000"
    assert headers["content-type"] == "text/event-stream; charset=utf-8"
    assert headers["cache-control"] == "no-store"
    assert headers["x-accel-buffering"] == "no"
    assert headers["transfer-encoding"] == "chunked"
    assert headers["connection"] == "close"
    assert headers["x-request-id"]
    assert "content-encoding" not in headers


def test_a_whole_life_is_told_and_ends_the_stream(served: Served) -> None:
    job_id = submitted(served)
    listener = Listener(served, job_id)
    listener.until(is_version(1))
    job = served.api.start()
    listener.until(is_version(3))
    served.api.report(job, 3, 30)
    progress = listener.until(lambda event: event.kind == "progress" and event.data["progress"]["step"] == 3)
    with served.api.database.write() as connection:
        assert claims.finish(connection, job, [make_image(job, 0), make_image(job, 1)], {"run_ms": 5})
    told = listener.end()

    shown = served.client.get(f"/v1/jobs/{job_id}").json()
    assert progress.id == "3.3"
    assert progress.data["progress"] == {**progress.data["progress"], "value": 0.1, "steps": 30}
    assert {"status", "version", "stage", "progress", "queue"} == progress.data.keys()
    assert [event.id for event in told if event.kind == "status"] == ["1.0", "2.0", "3.0", "4.0"]
    assert [event.data["kind"] for event in told if event.kind == "status"][1:3] == ["job.claimed", "job.started"]
    assert [(event.id, event.data) for event in told if event.kind == "output"] == [
        ("4.1", shown["images"][0]),
        ("4.2", shown["images"][1]),
    ]
    assert (told[-1].kind, told[-1].id, told[-1].data) == ("done", "4.3", shown)
    assert not goes_back(told)


def test_of_progress_only_the_newest_is_told_and_never_an_older_one(served: Served) -> None:
    submitted(served)
    job = served.api.start()
    listener = Listener(served, job.id)
    for step in range(1, 31):
        served.api.report(job, step, 30)
    listener.until(lambda event: event.kind == "progress" and event.data["progress"]["step"] == 30)
    told = [event.place for event in listener.told if event.kind == "progress"]
    with served.api.database.write() as connection:
        cancel_job(connection, "default", job.id)
        claims.cancel_running(connection, job.id, job.fence)

    assert listener.end()[-1].kind == "done"
    assert told == sorted(set(told))
    assert told[-1] == (3, 30)


def test_a_preview_is_named_by_the_tag_that_fetching_it_shows(served: Served) -> None:
    submitted(served)
    job = served.api.start()
    served.api.report(job, 1, 30)
    listener = Listener(served, job.id)
    with served.api.database.write() as connection:
        reports.report_preview(connection, job.id, job.fence, b"first")
        reports.report_preview(connection, job.id, job.fence, b"second")
    event = listener.until(lambda event: event.kind == "preview" and event.data["etag"].endswith('.2"'))
    url, tag = event.data["url"], event.data["etag"]
    fetched = served.client.get(url)
    again = served.client.get(url, headers={"If-None-Match": tag})
    served.stop()

    assert event.id == "3.1"
    assert (fetched.content, fetched.headers["etag"]) == (b"second", tag)
    assert (again.status_code, again.content) == (304, b"")


@pytest.mark.parametrize("is_canceled", [True, False])
def test_what_did_not_succeed_ends_with_done_alone(served: Served, is_canceled: bool) -> None:
    submitted(served)
    job = served.api.start()
    error = {"code": "invalid_output", "detail": "black", "title": "t", "type": "x", "retryable": False, "errors": []}
    with served.api.database.write() as connection:
        if is_canceled:
            claims.cancel_running(connection, job.id, job.fence)
        else:
            claims.fail(connection, job.id, job.fence, error)
    _, (status, done) = follow(served.client, job.id)

    assert (status.kind, status.id, done.kind, done.id) == ("status", "4.0", "done", "4.1")
    assert status.data["error"] == (None if is_canceled else error)
    assert done.data["status"] == ("canceled" if is_canceled else "failed")


def test_a_stream_resumed_after_any_event_tells_the_rest(served: Served) -> None:
    job_id = submitted(served)
    served.api.develop()
    _, whole = follow(served.client, job_id, "0.0")
    assert [event.id for event in whole] == ["1.0", "2.0", "3.0", "4.0", "4.1", "4.2"]
    for number, event in enumerate(whole[:-1], 1):
        status, rest = follow(served.client, job_id, event.id)
        assert (status, lasting(rest)) == (200, lasting(whole[number:]))
        assert rest == whole[number:], "byte for byte"


@pytest.mark.parametrize("after", ["4.2", "4.3"])
def test_who_has_been_told_everything_is_told_so(served: Served, after: str) -> None:
    job_id = submitted(served)
    served.api.develop()
    assert follow(served.client, job_id, after) == (204, [])


def test_after_its_results_have_expired_a_stream_is_resumed_to_the_same_end(served: Served) -> None:
    job_id = submitted(served)
    served.api.develop()
    served.expire(job_id)
    status, rest = follow(served.client, job_id, "4.1")
    assert (status, [(event.kind, event.id) for event in rest]) == (200, [("done", "4.2")])
    assert follow(served.client, job_id, "4.2") == (204, [])


def test_a_history_longer_than_what_is_kept_in_memory_is_read(served: Served) -> None:
    job_id = submitted(served)
    for number in range(230):
        answer = served.client.patch(f"/v1/jobs/{job_id}", json={"tags": [str(number)]})
        assert answer.status_code == 200
    _, told = follow(served.client, job_id, "1.0", most=230)
    assert [event.id for event in told] == [f"{version}.0" for version in range(2, 232)]


@pytest.mark.parametrize("after", ["", "x", "1", "1.", "-1.0", "1.0.0", "1" * 16 + ".0", "１.0", '"1.0"'])
def test_a_malformed_last_event_id_is_refused(served: Served, after: str) -> None:
    job_id = submitted(served)
    headers = {"Last-Event-ID": after.encode()}
    answer = served.client.get(f"/v1/jobs/{job_id}/events", headers=headers)
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["pointer"] == "/header/last-event-id"


@pytest.mark.parametrize("after", ["2.0", "9.3"])
def test_an_id_of_a_version_to_come_is_refused(served: Served, after: str) -> None:
    queued = submitted(served)
    with served.client.stream("GET", f"/v1/jobs/{queued}/events", headers={"Last-Event-ID": "1.7"}) as answer:
        assert answer.status_code == 200, "a counter that ran ahead may be resumed"
    answer = served.client.get(f"/v1/jobs/{queued}/events", headers={"Last-Event-ID": after})
    (error,) = answer.json()["errors"]
    served.stop()
    told = ("/header/last-event-id", "this job has no event with that id (yet)")
    assert (answer.status_code, error["pointer"], error["detail"]) == (422, *told)


def test_an_id_beyond_the_end_of_another_job_is_refused(served: Served) -> None:
    job_id = submitted(served)
    served.api.develop()
    answer = served.client.get(f"/v1/jobs/{job_id}/events", headers={"Last-Event-ID": "5.0"})
    assert answer.status_code == 422


def test_an_id_that_another_process_told_just_now_is_looked_up(served: Served) -> None:
    """This one's poller saw the job half a second ago; the client has heard of it since, elsewhere."""
    job_id = submitted(served)
    room = served.api.app.state.services.room
    listener = Listener(served, job_id)
    listener.until(is_version(1))
    room.find_fresh = lambda tenant_id, job_id: old
    watched = room.jobs[job_id]
    old = Sighting(watched.job, (), watched.outlook, watched.seen_at)
    served.api.start()
    status, told = follow(served.client, job_id, "2.0", most=1)
    assert (status, told[0].id) == (200, "3.0")
    served.stop()


def test_two_last_event_ids_and_unknown_parameters_are_refused(served: Served) -> None:
    url = f"/v1/jobs/{submitted(served)}/events"
    twice = served.client.get(url, headers=[("Last-Event-ID", "1.0"), ("Last-Event-ID", "1.0")])
    assert (twice.status_code, served.client.get(f"{url}?since=1").status_code) == (422, 422)


def test_foreign_unknown_and_erased_jobs_answer_as_a_look_at_them_does(served: Served) -> None:
    foreign, erased = submitted(served), submitted(served)
    served.client.delete(f"/v1/jobs/{erased}")
    make_foreign(served, foreign)
    for job_id in (foreign, erased, new_id("job"), "x", "job_1"):
        looked, followed = (served.client.get(f"/v1/jobs/{job_id}{tail}") for tail in ("", "/events"))
        assert looked.status_code == followed.status_code == (410 if job_id == erased else 404)
        told = [{**answer.json(), "instance": "", "request_id": ""} for answer in (looked, followed)]
        assert told[0] == told[1]


def make_foreign(served: Served, job_id: str) -> None:
    """Give the job to somebody else."""
    with served.api.database.write() as connection:
        connection.execute(insert(tenants).values(id="other", name="other"))
        connection.execute(update(jobs).where(jobs.c.id == job_id).values(tenant_id="other"))


def test_a_job_that_is_watched_by_its_tenant_is_still_unknown_to_others(served: Served) -> None:
    job_id = submitted(served)
    listener = Listener(served, job_id)
    served.until_waiting(1)
    room = served.api.app.state.services.room
    assert room.find_fresh("other", job_id) is None
    wait_until(lambda: room.find_fresh("default", job_id), what="a fresh look")
    served.client.post(f"/v1/jobs/{job_id}/cancel")
    listener.end()


def test_a_job_that_is_erased_while_watched_ends_without_its_results(served: Served) -> None:
    job_id = submitted(served, prompt="secret words")
    listener = Listener(served, job_id)
    listener.until(is_version(1))
    with served.api.database.write() as connection:
        erasing.erase_job(connection, "default", job_id)
    told = listener.end()

    assert [(event.kind, event.id) for event in told if event.kind != "progress"] == [
        ("status", "1.0"),
        ("status", "2.0"),
    ]
    assert follow(served.client, job_id, "2.0")[0] == 410


def test_a_running_job_that_is_erased_is_told_no_more(served: Served) -> None:
    job_id = submitted(served, prompt="secret words")
    job = served.api.start()
    served.api.report(job, 3, 10)
    with served.api.database.write() as connection:
        reports.report_preview(connection, job_id, job.fence, b"jpeg")
    listener = Listener(served, job_id)
    listener.until(lambda event: event.kind == "preview")
    assert served.client.delete(f"/v1/jobs/{job_id}").status_code == 204
    served.api.report(job, 4, 10)
    assert served.client.get(f"/v1/jobs/{job_id}?wait=1&since=0").status_code == 410
    assert follow(served.client, job_id)[0] == 410
    assert [event.kind for event in listener.end()][-1] != "done"


def test_a_job_whose_delay_is_over_is_told_its_place(served: Served) -> None:
    job_id = submitted(served)
    with served.api.database.write() as connection:
        late = {"held": "delayed", "run_after": after_now(-1)}
        connection.execute(update(jobs).where(jobs.c.id == job_id).values(late))
    listener = Listener(served, job_id)
    assert listener.until(is_version(1)).data["job"]["queue"]["position"] is None
    with served.api.database.write() as connection:
        assert rescue.release_delayed(connection)
    assert listener.until(lambda event: event.kind == "progress").data["queue"]["position"] == 0
    served.client.post(f"/v1/jobs/{job_id}/cancel")
    listener.end()


def test_a_silent_stream_is_kept_alive_by_comments(serve: Serve) -> None:
    served = serve(stream_ping_seconds=0.05)
    listener = Listener(served, submitted(served))
    wait_until(lambda: listener.lines.count(": ping") >= 3, what="three pings")
    served.stop()
    assert listener.kinds()[0] == "status"


def test_a_stream_whose_time_is_up_ends_and_is_resumed_without_a_gap(serve: Serve) -> None:
    served = serve(stream_seconds=0.2)
    job_id = submitted(served)
    told = Listener(served, job_id).end()
    served.api.develop()
    _, rest = follow(served.client, job_id, told[-1].id)
    assert [event.id for event in (*told, *rest) if event.kind != "progress"] == [
        *("1.0", "2.0", "3.0", "4.0", "4.1", "4.2")
    ]


def test_one_more_than_the_limit_is_refused_and_a_place_that_is_left_is_free_again(serve: Serve) -> None:
    served = serve(max_waiters=2)
    job_id = submitted(served)
    with ExitStack() as streams:
        for _ in range(2):
            answer = streams.enter_context(served.client.stream("GET", f"/v1/jobs/{job_id}/events"))
            assert answer.status_code == 200
        refused = [served.client.get(f"/v1/jobs/{job_id}{tail}") for tail in ("/events", "?wait=5")]
        assert [answer.status_code for answer in refused] == [503, 503]
        assert {answer.headers["retry-after"] for answer in refused} == {"2"}
        assert served.client.get(f"/v1/jobs/{job_id}").status_code == 200
    served.until_waiting(0)
    with served.client.stream("GET", f"/v1/jobs/{job_id}/events") as answer:
        assert answer.status_code == 200


def test_a_head_of_a_stream_waits_for_nothing(served: Served) -> None:
    answer = served.client.head(f"/v1/jobs/{submitted(served)}/events")
    assert (answer.status_code, answer.content) == (200, b"")
    served.until_waiting(0)


def test_the_place_in_the_queue_is_told_when_it_changes(served: Served) -> None:
    ahead, job_id = submitted(served), submitted(served)
    listener = Listener(served, job_id)
    first = listener.until(is_version(1))
    served.client.post(f"/v1/jobs/{ahead}/cancel")
    moved = listener.until(lambda event: event.kind == "progress" and event.data["queue"]["position"] == 0)
    served.stop()

    assert first.data["job"]["queue"]["position"] == 1
    assert moved.id == "1.0"


def test_a_stop_ends_streams_in_good_order_and_they_go_on_elsewhere(
    served: Served, database: Database, tmp_path: Path
) -> None:
    job_id = submitted(served)
    listener = Listener(served, job_id)
    listener.until(is_version(1))
    poll = Aside(lambda: httpx.get(f"{served.url}/v1/jobs/{job_id}?wait=30", timeout=40, trust_env=False))
    served.until_waiting(2)
    began = time.monotonic()
    served.stop()

    told = listener.end()
    assert poll.answer().json()["status"] == "queued"
    assert time.monotonic() - began < 6
    served.api.develop()
    with serving(database, tmp_path) as other:
        _, rest = follow(other.client, job_id, told[-1].id)
    assert [event.id for event in lasting_of(told + rest)] == ["1.0", "2.0", "3.0", "4.0", "4.1", "4.2"]


def lasting_of(events: list[Told]) -> list[Told]:
    return [event for event in events if event.kind in {"status", "output", "done"}]


def test_a_stream_goes_on_when_the_database_comes_back(served: Served) -> None:
    submitted(served)
    job = served.api.start()
    listener = Listener(served, job.id)
    served.until_waiting(1)
    served.meter.is_away = True
    reads = served.meter.reads
    wait_until(lambda: served.meter.reads >= reads + 2, what="two looks in vain")
    refused = served.client.get(f"/v1/jobs/{new_id('job')}/events")
    served.meter.is_away = False
    with served.api.database.write() as connection:
        assert claims.finish(connection, job, [replace(make_image(job), key="results/x.png")], {})
    assert refused.status_code == 503
    assert listener.end()[-1].kind == "done"
