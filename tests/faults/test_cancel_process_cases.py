"""Case 24 on real processes: a cancel at every moment of a job's life ends it once, and without images."""

import random
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from common.db.engine import Database
from common.domain.lifecycle import JobState
from common.storage.open import open_store
from tests.faults.invariants import check
from tests.making import submit
from tests.processes.full import start_api
from tests.processes.harness import Stack, eventually, look_at, stack, until_finished

pytestmark = pytest.mark.processes


@pytest.fixture(params=["embedded", pytest.param("full", marks=[pytest.mark.postgres, pytest.mark.redis])])
def services(request: pytest.FixtureRequest) -> dict[str, str]:
    """The settings of the embedded stack and of the full one."""
    if request.param == "embedded":
        return {}
    request.getfixturevalue("postgres_database").close()  # empties it
    return {
        "DARKROOM_DATABASE_URL": request.getfixturevalue("postgres_url"),
        "DARKROOM_BROKER_URL": request.getfixturevalue("redis_url"),
    }


@pytest.fixture
def deployment(services: dict[str, str], tmp_path: Path) -> Iterator[Stack]:
    with stack(tmp_path, DARKROOM_STUB_STEP_SECONDS="0.1", DARKROOM_BATCH_FRAMES="16", **services) as built:
        yield built


@pytest.fixture
def client(deployment: Stack) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=start_api(deployment), timeout=30) as opened:
        yield opened


@pytest.fixture
def stored(deployment: Stack) -> Iterator[Database]:
    opened = deployment.database
    yield opened
    opened.close()


def ask_to_cancel(client: httpx.Client, job_id: str) -> str:
    return str(client.post(f"/v1/jobs/{job_id}/cancel").raise_for_status().json()["status"])


def steps(count: int) -> dict[str, int]:
    return {"num_inference_steps": count, "effective_steps": count}


def steps_done(database: Database, job_id: str) -> int:
    progress = look_at(database, job_id).progress
    return progress.step if progress else 0


def assert_ended(deployment: Stack, database: Database, ids: list[str]) -> list[JobState]:
    """Each of these jobs is over, and no invariant is broken; their states."""
    ends = [until_finished(database, job_id) for job_id in ids]
    check(database, open_store(deployment.settings.store, None), ids)
    assert all(bool(end.images) == (end.state is JobState.SUCCEEDED) for end in ends)
    return [end.state for end in ends]


def test_a_job_that_is_cancelled_at_any_of_its_steps_is_canceled_and_its_neighbours_go_on(
    deployment: Stack, client: httpx.Client, stored: Database
) -> None:
    count = 12
    made = [submit(stored, params=steps(40)).id for _ in range(count)]
    kept = submit(stored, params=steps(40)).id
    deployment.worker()
    for at, job_id in enumerate(made):
        eventually(lambda at=at, job_id=job_id: steps_done(stored, job_id) >= at, what=f"step {at}")  # type: ignore[misc]
        assert ask_to_cancel(client, job_id) in {"running", "canceled"}
    assert assert_ended(deployment, stored, [*made, kept]) == [*[JobState.CANCELED] * count, JobState.SUCCEEDED]


def test_cancels_at_any_moment_of_short_jobs_leave_each_of_them_with_one_end(
    deployment: Stack, client: httpx.Client, stored: Database
) -> None:
    """Claims, joins, puts and commits follow each other within a few milliseconds, and the cancels fall among them."""
    deployment.worker(DARKROOM_STUB_STEP_SECONDS="0.01")
    deployment.sweeper()
    storm(deployment, client, stored, count=40, seed=24)


@pytest.mark.chaos
@pytest.mark.timeout(900)
@pytest.mark.parametrize("seed", range(10))
def test_a_thousand_cancels_at_any_moment_leave_each_job_with_one_end(
    deployment: Stack, client: httpx.Client, stored: Database, seed: int
) -> None:
    deployment.worker(DARKROOM_STUB_STEP_SECONDS="0.01")
    deployment.worker(DARKROOM_STUB_STEP_SECONDS="0.01")
    deployment.sweeper()
    storm(deployment, client, stored, count=1000, seed=seed)


def storm(deployment: Stack, client: httpx.Client, database: Database, *, count: int, seed: int) -> None:
    chance, pause = random.Random(seed), threading.Event()
    waits = [chance.choice([0.0, chance.uniform(0, 0.1), chance.uniform(0, 0.5)]) for _ in range(count)]
    made: list[str] = []

    def submit_and_cancel(seconds: float) -> str:
        job_id = submit(database, params=steps(3)).id
        made.append(job_id)
        pause.wait(seconds)
        return ask_to_cancel(client, job_id)

    with ThreadPoolExecutor(4) as threads:
        told = list(threads.map(submit_and_cancel, waits))
    assert set(told) <= {"running", "canceled", "succeeded"}
    assert set(assert_ended(deployment, database, made)) <= {JobState.CANCELED, JobState.SUCCEEDED}


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM], ids=["a rescue", "a drain"])
def test_cancels_that_meet_the_end_of_their_worker_are_canceled_and_none_stays_queued(
    deployment: Stack, client: httpx.Client, stored: Database, number: signal.Signals
) -> None:
    made = [submit(stored, params=steps(500)).id for _ in range(6)]
    worker = deployment.worker(DARKROOM_DRAIN_SECONDS="1")
    eventually(lambda: all(steps_done(stored, job_id) for job_id in made), what="the first steps")
    for job_id in made[:3]:
        ask_to_cancel(client, job_id)
    worker.signal(number)
    for job_id in made[3:]:
        ask_to_cancel(client, job_id)
    worker.wait()
    deployment.sweeper()
    assert assert_ended(deployment, stored, made) == [JobState.CANCELED] * 6
