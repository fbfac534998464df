"""Long polls, and submits that wait for the end of their job, over a real connection."""

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest

from api.live.poller import LOOKS_A_SECOND, MOST_SAVED_LOOKS, QUERIES_A_SECOND, Budget
from api.preferences import wait_preference
from common.db.engine import Database
from common.domain.errors import Invalid
from common.ids import new_id
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


def path_of(served: Served) -> str:
    return f"/v1/jobs/{served.api.submit()['id']}"


def aside(served: Served, path: str, **headers: str) -> Aside:
    """A request that waits while the test goes on."""
    return Aside(lambda: httpx.get(f"{served.url}{path}", headers=headers, timeout=70, trust_env=False))


def submit_aside(served: Served, prefer: str, **headers: str) -> Aside:
    url, given = f"{served.url}/v1/jobs", {"Prefer": prefer, **headers}
    return Aside(lambda: httpx.post(url, json={"prompt": "x"}, headers=given, timeout=70, trust_env=False))


def test_a_poll_answers_when_the_job_changes(served: Served) -> None:
    path = path_of(served)
    poll = aside(served, f"{path}?wait=60")
    served.until_waiting(1)
    served.client.post(f"{path}/cancel")
    answer = poll.answer()

    assert (answer.status_code, answer.json()["status"], answer.json()["version"]) == (200, "canceled", 2)
    assert answer.json() == served.client.get(path).json()


def test_a_version_that_is_known_already_is_waited_past_and_an_older_one_is_not(served: Served) -> None:
    path = path_of(served)
    assert served.client.patch(path, json={"tags": ["x"]}).json()["version"] == 2
    assert served.client.get(f"{path}?wait=60&since=1").json()["version"] == 2
    poll = aside(served, f"{path}?wait=60&since=3")
    served.until_waiting(1)
    served.client.patch(path, json={"tags": ["y"]})
    served.client.patch(path, json={"tags": ["z"]})
    assert poll.answer().json()["version"] == 4


def test_a_finished_job_is_not_waited_for(served: Served) -> None:
    path = path_of(served)
    served.client.post(f"{path}/cancel")
    assert served.client.get(f"{path}?wait=60&since=99").json()["status"] == "canceled"


def test_progress_alone_does_not_answer_a_poll_but_its_answer_has_the_newest(served: Served) -> None:
    path = path_of(served)
    job = served.api.start()
    poll = aside(served, f"{path}?wait=2")
    served.until_waiting(1)
    served.api.report(job, 7, 30)
    assert poll.answer().json()["progress"]["step"] == 7


def test_after_its_time_a_poll_answers_the_job_as_it_is_or_that_it_has_not_changed(served: Served) -> None:
    path = path_of(served)
    first = served.client.get(path)
    began = time.monotonic()
    plain = aside(served, f"{path}?wait=1")
    conditional = aside(served, f"{path}?wait=1", **{"If-None-Match": first.headers["etag"]})

    assert (plain.answer().status_code, plain.answer().json()) == (200, first.json())
    assert (conditional.answer().status_code, conditional.answer().content) == (304, b"")
    assert time.monotonic() - began >= 1


@pytest.mark.parametrize("query", ["wait=61", "wait=-1", "wait=x", "wait=1.5", "since=-1", "since=x", "wait=1&wait=1"])
def test_a_wrong_wait_is_refused(served: Served, query: str) -> None:
    answer = served.client.get(f"{path_of(served)}?{query}")
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["pointer"] == f"/query/{query.partition('=')[0]}"


def test_unknown_and_erased_jobs_are_not_waited_for(served: Served) -> None:
    path = path_of(served)
    assert served.client.get(f"/v1/jobs/{new_id('job')}?wait=60").status_code == 404
    poll = aside(served, f"{path}?wait=60")
    served.until_waiting(1)
    served.client.delete(path)
    assert [served.client.get(f"{path}{tail}").status_code for tail in ("?wait=60&since=0", "/events")] == [410, 410]
    assert poll.answer().status_code == 410


def test_a_hundred_polls_hold_no_thread(served: Served) -> None:
    path = path_of(served)
    with ThreadPoolExecutor(100) as pool, httpx.Client(base_url=served.url, timeout=70, trust_env=False) as client:
        polls = [pool.submit(client.get, f"{path}?wait=60") for _ in range(100)]
        served.until_waiting(100)
        assert served.client.get(path).status_code == 200
        assert served.client.post(f"{path}/cancel").status_code == 200
        assert {poll.result().json()["status"] for poll in polls} == {"canceled"}


def test_who_polls_a_job_that_is_watched_costs_no_read_of_its_own(served: Served) -> None:
    path = path_of(served)
    poll = aside(served, f"{path}?wait=60")
    room = served.api.app.state.services.room
    served.until_waiting(1)
    job_id = path.rpartition("/")[2]
    wait_until(lambda: room.find_fresh("default", job_id), what="a fresh look")
    before = served.meter.reads
    for _ in range(40):
        assert served.client.get(f"{path}?wait=60&since=0").status_code == 200
    read = served.meter.reads - before
    served.client.post(f"{path}/cancel")
    poll.answer()
    assert read < 40


def test_nobody_waiting_costs_nothing(served: Served) -> None:
    path = path_of(served)
    assert served.client.get(f"{path}?wait=1").status_code == 200
    served.until_waiting(0)
    wait_until(lambda: not served.api.app.state.services.room.jobs, what="an empty room")
    reads = served.meter.reads
    assert served.client.get("/healthz").status_code == 200
    assert served.meter.reads == reads


def test_a_client_that_leaves_leaves_its_place(served: Served) -> None:
    path = path_of(served)
    with pytest.raises(httpx.ReadTimeout):
        httpx.get(f"{served.url}{path}?wait=60", timeout=0.5, trust_env=False)
    served.until_waiting(0)


def test_while_the_database_is_away_a_poll_goes_on_waiting_and_a_new_one_is_refused(served: Served) -> None:
    path = path_of(served)
    poll = aside(served, f"{path}?wait=3")
    served.until_waiting(1)
    served.meter.is_away = True
    room = served.api.app.state.services.room
    wait_until(lambda: room.find_fresh("default", path.rpartition("/")[2]) is None, what="looks in vain")
    refused = served.client.get(f"{path}?wait=60")
    assert (refused.status_code, refused.headers["retry-after"]) == (503, "2")
    assert (poll.answer().status_code, poll.answer().json()["status"]) == (200, "queued")


def test_a_submit_that_waits_answers_the_finished_job(served: Served) -> None:
    submit = submit_aside(served, "respond-async, wait=60", **{"Idempotency-Key": "k"})
    served.until_waiting(1)
    job_id = served.api.develop()
    answer = submit.answer()

    assert (answer.status_code, answer.json()["id"], answer.json()["status"]) == (200, job_id, "succeeded")
    assert answer.headers["preference-applied"] == "wait=60"
    assert answer.headers["location"].endswith(job_id)
    assert "idempotent-replayed" not in answer.headers
    again = submit_aside(served, "wait=5", **{"Idempotency-Key": "k"}).answer()
    assert (again.status_code, again.headers["idempotent-replayed"]) == (200, "true")


def test_a_submit_that_waited_in_vain_is_accepted_all_the_same(served: Served) -> None:
    answer = submit_aside(served, "wait=1").answer()
    assert (answer.status_code, answer.json()["status"]) == (202, "queued")
    assert answer.headers["preference-applied"] == "wait=1"
    plain = submit_aside(served, "handling=lenient").answer()
    assert (plain.status_code, "preference-applied" in plain.headers) == (202, False)


def test_submits_that_wait_leave_room_for_other_bodies(served: Served) -> None:
    """Eight bodies are read at a time; more than that wait for their jobs, and the next one is taken at once."""
    waiting = [submit_aside(served, "wait=60") for _ in range(12)]
    served.until_waiting(12)
    began = time.monotonic()
    served.api.submit()
    assert time.monotonic() - began < 5
    for _ in waiting:
        served.api.develop()
    assert {submit.answer().status_code for submit in waiting} == {200}


def test_without_a_place_to_wait_a_submit_is_accepted_without_waiting(serve: Serve) -> None:
    served = serve(max_waiters=1)
    path = path_of(served)
    poll = aside(served, f"{path}?wait=60")
    served.until_waiting(1)
    answer = submit_aside(served, "wait=60").answer()
    served.client.post(f"{path}/cancel")
    poll.answer()
    assert (answer.status_code, "preference-applied" in answer.headers) == (202, False)


def test_a_dry_run_waits_for_nothing(served: Served) -> None:
    headers = {"Prefer": "wait=60"}
    answer = served.client.post("/v1/jobs?dry_run=true", json={"prompt": "x"}, headers=headers)
    assert (answer.status_code, "preference-applied" in answer.headers) == (200, False)


@pytest.mark.parametrize("prefer", ["wait=0", "wait=61", "wait=x", "wait", "wait=", "wait=-1", 'wait="1', "wait=1.5"])
def test_a_wrong_preference_for_waiting_is_refused_before_anything_is_stored(served: Served, prefer: str) -> None:
    answer = served.client.post("/v1/jobs", json={"prompt": "x"}, headers={"Prefer": prefer})
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["pointer"] == "/header/prefer"
    assert served.api.count_jobs() == 0


@pytest.mark.parametrize(
    ("given", "seconds"),
    [
        ([], None),
        ([""], None),
        (["respond-async"], None),
        (["wait=10"], 10),
        (["WAIT = 10"], 10),
        (['respond-async , wait="7"; foo=bar, wait=99'], 7),
        (["respond-async", "wait=3"], 3),
        (['note="a, wait=99; b", wait=4'], 4),
        (["waiting=99"], None),
    ],
)
def test_the_first_wait_is_what_counts(given: list[str], seconds: int | None) -> None:
    assert wait_preference(given) == seconds


def test_a_wait_beyond_all_numbers_is_refused() -> None:
    with pytest.raises(Invalid):
        wait_preference(["wait=" + "9" * 5000])


class Clock:
    """Seconds that pass when told to."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_looks_are_brisk_at_first_and_on_the_long_run_bounded() -> None:
    clock = Clock()
    budget, began, pauses = Budget(clock), clock.now, list[float]()
    while clock.now - began < 60:
        pauses.append(budget.spend(2, 0.002))
        clock.now += pauses[-1]
    assert pauses[:10] == [pytest.approx(0.05)] * 10
    assert len(pauses) <= 60 * LOOKS_A_SECOND + MOST_SAVED_LOOKS


def test_a_look_that_finds_much_or_takes_long_is_followed_by_a_longer_pause_but_by_none_without_end() -> None:
    assert Budget(Clock()).spend(30, 0.01) == pytest.approx(30 / QUERIES_A_SECOND)
    assert Budget(Clock()).spend(1, 0.04) == pytest.approx(0.2)
    assert Budget(Clock()).spend(1, 60) == Budget(Clock()).spend(5000, 0.1) == pytest.approx(2)


def test_after_a_quiet_time_looks_are_brisk_again() -> None:
    clock = Clock()
    budget = Budget(clock)
    while budget.spend(2, 0.002) < 0.1:
        pass
    clock.now += 10
    assert budget.spend(2, 0.002) == pytest.approx(0.05)


def test_what_a_client_changed_itself_is_not_answered_as_it_was(served: Served) -> None:
    job_id = served.api.submit()["id"]
    others = aside(served, f"/v1/jobs/{job_id}?wait=20&since=99")
    served.until_waiting(1)
    edited = served.client.patch(f"/v1/jobs/{job_id}", json={"tags": ["x"]}).json()["version"]
    assert served.client.get(f"/v1/jobs/{job_id}?wait=1&since=0").json()["version"] == edited
    served.client.post(f"/v1/jobs/{job_id}/cancel")
    assert served.client.get(f"/v1/jobs/{job_id}?wait=1&since=0").json()["status"] == "canceled"
    others.answer()


def test_results_that_have_expired_are_not_answered_as_unchanged(served: Served) -> None:
    job_id = served.api.submit()["id"]
    served.api.develop()
    fresh = served.client.get(f"/v1/jobs/{job_id}")
    served.expire(job_id)
    again = served.client.get(f"/v1/jobs/{job_id}", headers={"If-None-Match": fresh.headers["ETag"]})
    assert (len(fresh.json()["images"]), again.status_code, again.json()["images"]) == (1, 200, [])
