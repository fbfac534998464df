"""Positions and seconds in answers, and the cache that they come from."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest
from sqlalchemy import update

from api.outlooks import Outlooks
from api.schemas.job import DryRun
from common.catalogue_file import load_catalogue
from common.db.jobs import find_job
from common.db.tables import jobs
from common.db.workers import beat
from common.domain.errors import Unavailable
from common.domain.fairness import Lane
from common.domain.lifecycle import JobState
from common.domain.outlook import UNKNOWN, Outlook, PoolLook, QueuedJob
from common.domain.snapshot import JobSnapshot
from common.job_document import job_etag
from common.settings import Settings
from tests.unit.api.conftest import WORKER, Api, Json
from tests.waiting import wait_until


class Clock:
    """Monotonic seconds that the test moves."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def seconds_later(api: Api, monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Time goes on far enough for a new look."""
    clock = Clock()
    monkeypatch.setattr(api.app.state.services.outlooks, "_clock", clock)

    def move() -> None:
        clock.now += 2.0

    return move


def show(api: Api, job: Json) -> Any:
    answer = api.client.get(job["urls"]["self"])
    assert answer.status_code == 200
    return answer


def work_at(api: Api, **paces: float) -> None:
    """A worker is there and has measured this."""
    with api.database.write() as connection:
        beat(connection, WORKER, state="ready", resident=(), paces=paces or None)
        beat(connection, WORKER, state="ready", resident=(), paces=paces or None)  # the first only registers it


def dry_run(api: Api, **members: Any) -> DryRun:
    answer = api.client.post("/v1/jobs?dry_run=true", json={"prompt": "a cat"} | members)
    assert answer.status_code == 200, answer.text
    return DryRun.model_validate(answer.json())


def test_three_queued_jobs_stand_at_nought_one_and_two(api: Api, seconds_later: Callable[[], None]) -> None:
    made = []
    for number in range(3):
        made.append(api.submit())
        assert made[number]["queue"] == {"position": number, "is_lower_bound": False, "eta_seconds": None}
        seconds_later()
    assert [show(api, job).json()["queue"]["position"] for job in made] == [0, 1, 2]


def test_without_workers_nobody_knows_when_and_with_one_the_costs_before_say(
    api: Api, seconds_later: Callable[[], None]
) -> None:
    made = [api.submit() for _ in range(3)]
    seconds_later()
    assert [show(api, job).json()["queue"]["eta_seconds"] for job in made] == [None] * 3
    work_at(api)
    seconds_later()
    first, second, third = (show(api, job).json() for job in made)
    cost = dry_run(api).estimate.run_seconds
    assert [job["queue"]["eta_seconds"] for job in (first, second, third)] == pytest.approx(
        [0.0, cost, 2 * cost], abs=0.06
    )
    assert third["progress"]["eta_seconds"] == pytest.approx(3 * cost, abs=0.06)


def test_what_workers_measured_replaces_the_guess(api: Api, seconds_later: Callable[[], None]) -> None:
    job, guessed = api.submit(), dry_run(api).estimate.run_seconds
    guess = {card.id: card.seconds_per_megapixel_step for card in api.app.state.services.catalogue}[job["model"]]
    work_at(api, **{job["model"]: guess * 3})
    seconds_later()
    assert dry_run(api).estimate.run_seconds == pytest.approx(3 * guessed, rel=0.01)
    assert show(api, job).json()["progress"]["eta_seconds"] == pytest.approx(3 * guessed, abs=0.06)


def test_the_suggested_pause_grows_with_the_queue_up_to_its_bound(api: Api, seconds_later: Callable[[], None]) -> None:
    work_at(api)
    made = [api.submit(model="sd15", num_images=images) for images in (1, 1, 2, 4, 8, 16)]
    seconds_later()
    pauses = [int(show(api, job).headers["retry-after"]) for job in made]
    assert pauses == sorted(pauses)
    assert (pauses[0], pauses[-1] > pauses[-2] > pauses[-3] > 1, max(pauses) <= 30) == (1, True, True)


def test_an_answer_that_shows_another_position_has_another_tag(api: Api, seconds_later: Callable[[], None]) -> None:
    _, job = api.submit(), api.submit()
    seconds_later()
    before = show(api, job).headers["etag"]
    again = api.client.get(job["urls"]["self"], headers={"If-None-Match": before})
    assert again.status_code == 304
    api.start()
    seconds_later()
    after = api.client.get(job["urls"]["self"], headers={"If-None-Match": before})
    assert (after.status_code, after.json()["queue"]["position"]) == (200, 0)
    assert after.json()["version"] == job["version"]


def test_a_submit_and_a_look_right_after_it_have_the_same_tag(api: Api, seconds_later: Callable[[], None]) -> None:
    seconds_later()
    answer = api.client.post("/v1/jobs", json={"prompt": "a cat"})
    assert show(api, answer.json()).headers["etag"] == answer.headers["etag"]


def test_lists_say_nothing_of_positions(api: Api) -> None:
    api.submit()
    (job,) = api.client.get("/v1/jobs").json()["data"]
    assert job["queue"] == {"position": None, "is_lower_bound": False, "eta_seconds": None}


def test_a_held_job_has_no_place_and_a_running_one_is_told_what_is_left(
    api: Api, seconds_later: Callable[[], None]
) -> None:
    running, held = api.submit(), api.submit()
    api.start()
    with api.database.write() as connection:
        connection.execute(update(jobs).where(jobs.c.id == held["id"]).values(held="intake"))
    seconds_later()
    assert show(api, held).json()["queue"] == {"position": None, "is_lower_bound": False, "eta_seconds": None}
    shown = show(api, running).json()
    assert shown["queue"]["position"] is None
    assert shown["progress"]["eta_seconds"] == pytest.approx(dry_run(api).estimate.run_seconds, abs=0.06)


def test_a_dry_run_tells_the_wait_of_its_lane(api: Api, seconds_later: Callable[[], None]) -> None:
    for _ in range(4):
        api.submit()
    seconds_later()
    assert dry_run(api).estimate.queue_seconds is None  # nobody works
    work_at(api)
    seconds_later()
    same, other = dry_run(api).estimate, dry_run(api, priority="low").estimate
    assert same.queue_seconds == pytest.approx(4 * same.run_seconds, abs=0.06)
    # Nobody of the lane waits, so it would stand where virtual time does: behind the first.
    assert other.queue_seconds == pytest.approx(same.run_seconds, abs=0.06)


class Looks:
    """A database of one pool whose looks are counted, may wait, and may fail."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.count = 0
        self.queue: list[QueuedJob] = []
        self.may_end = threading.Event()
        self.may_end.set()
        self.error: Exception | None = None
        self.clock = Clock()
        monkeypatch.setattr("api.outlooks.look_at_pool", lambda *_: self._look())
        catalogue = load_catalogue(Settings(_env_file=None))
        self.outlooks = Outlooks(self, catalogue, fresh_seconds=30, clock=self.clock)  # type: ignore[arg-type]

    @contextmanager
    def read(self) -> Iterator[None]:
        yield

    def _look(self) -> PoolLook:
        self.count += 1
        assert self.may_end.wait(10)
        if self.error is not None:
            raise self.error
        return PoolLook(tuple(self.queue), paces=[{}])


@pytest.fixture
def looks(job: JobSnapshot, monkeypatch: pytest.MonkeyPatch) -> Looks:
    """After the job was made, by an app whose looks are not to be counted."""
    return Looks(monkeypatch)


@pytest.fixture
def job(api: Api) -> JobSnapshot:
    with api.database.read() as connection:
        found = find_job(connection, "default", api.submit()["id"])
    assert found is not None
    return replace(found, vtime=5.0)


def test_one_look_serves_all_for_a_second(looks: Looks, job: JobSnapshot) -> None:
    for _ in range(5):
        looks.outlooks.of(job)
        looks.outlooks.refresh(job.pool)
        looks.clock.now += 0.19
    assert looks.count == 1
    looks.clock.now += 1
    looks.outlooks.of(job)
    assert looks.count == 2


def test_pools_are_looked_at_apart_and_only_when_asked_for(looks: Looks, job: JobSnapshot) -> None:
    looks.outlooks.of(job)
    looks.outlooks.of(replace(job, pool="other"))
    looks.outlooks.of(replace(job, pool="third", state=JobState.CANCELED))
    assert looks.count == 2


def test_others_use_the_old_look_while_one_looks_anew(looks: Looks, job: JobSnapshot) -> None:
    before = looks.outlooks.of(job)
    looks.queue.append(QueuedJob(1.0, "job_0", "demo", 1.0))
    looks.clock.now += 2
    looks.may_end.clear()
    found: list[Outlook] = []
    thread = threading.Thread(target=lambda: found.append(looks.outlooks.of(job)))
    thread.start()
    wait_until(lambda: looks.count == 2)
    assert looks.outlooks.of(job) == before
    assert looks.count == 2
    looks.may_end.set()
    thread.join(10)
    assert (before.position, found[0].position, looks.outlooks.of(job).position) == (0, 1, 1)


def test_the_first_of_all_looks_is_waited_for_and_made_once(looks: Looks, job: JobSnapshot) -> None:
    looks.may_end.clear()
    found: list[Outlook] = []
    threads = [threading.Thread(target=lambda: found.append(looks.outlooks.of(job))) for _ in range(8)]
    for thread in threads:
        thread.start()
    wait_until(lambda: looks.count == 1)
    looks.may_end.set()
    for thread in threads:
        thread.join(10)
    assert ([one.position for one in found], looks.count) == ([0] * 8, 1)


def test_a_glance_looks_at_nothing_and_forgets_what_nobody_refreshes(looks: Looks, job: JobSnapshot) -> None:
    assert (looks.outlooks.peek(job), looks.count) == (UNKNOWN, 0)
    looks.outlooks.refresh(job.pool)
    looks.clock.now += 5
    assert (looks.outlooks.peek(job).position, looks.count) == (0, 1)
    looks.clock.now += 60
    assert (looks.outlooks.peek(job), looks.count) == (UNKNOWN, 1)


@pytest.mark.parametrize("error", [Unavailable("away"), RuntimeError("a mistake of ours")])
def test_a_database_that_is_away_leaves_it_unknown_and_is_asked_once_a_second(
    looks: Looks, job: JobSnapshot, error: Exception
) -> None:
    looks.error = error
    assert [looks.outlooks.of(job) for _ in range(5)] == [UNKNOWN] * 5
    assert looks.count == 1
    new = looks.outlooks.of_new(pool="default", tenant_id="default", lane=Lane.LOW, model="demo", cost=3.0)
    assert new == Outlook(run_seconds=3.0)
    looks.error = None
    looks.clock.now += 2
    assert looks.outlooks.of(job).position == 0


def test_the_tag_tells_positions_and_bounds_apart_and_no_seconds(job: JobSnapshot) -> None:
    shown = [UNKNOWN, Outlook(1), Outlook(2), Outlook(2, is_lower_bound=True)]
    assert len({job_etag(job, outlook) for outlook in shown}) == 4
    assert job_etag(job, Outlook(1)) == job_etag(job, Outlook(1, start_seconds=5.0, run_seconds=1.0))
    running = replace(job, state=JobState.RUNNING)
    assert job_etag(running, Outlook(1)) == job_etag(running, UNKNOWN)
