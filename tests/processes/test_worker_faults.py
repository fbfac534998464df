"""Faults of worker processes, on real processes and real signals, embedded and on PostgreSQL with Redis."""

import hashlib
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import func, select

from common.db.engine import Database
from common.db.jobs import cancel_job
from common.db.tables import attempts, images, job_events, jobs, workers
from common.domain.lifecycle import JobState
from common.storage.open import open_store
from tests.conftest import empty
from tests.making import submit
from tests.processes.harness import Stack, eventually, look_at, stack, until_finished

pytestmark = pytest.mark.processes

SLOW = {"DARKROOM_STUB_STEP_SECONDS": "0.1"}


@pytest.fixture(params=["embedded", pytest.param("full", marks=[pytest.mark.postgres, pytest.mark.redis])])
def deployment(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Stack]:
    """The embedded stack, and one on PostgreSQL and Redis."""
    services: dict[str, str] = {}
    if request.param == "full":
        url = request.getfixturevalue("postgres_url")
        database = Database(url)
        empty(database)
        database.close()
        services = {"DARKROOM_DATABASE_URL": url, "DARKROOM_BROKER_URL": request.getfixturevalue("redis_url")}
    with stack(tmp_path, **SLOW, **services) as built:
        yield built


@pytest.fixture
def database(deployment: Stack) -> Iterator[Database]:
    opened = deployment.database
    yield opened
    opened.close()


def steps(count: int) -> dict[str, int]:
    return {"num_inference_steps": count, "effective_steps": count}


def denoising(database: Database, job_id: str) -> bool:
    progress = look_at(database, job_id).progress
    return progress is not None and progress.step > 0


def test_a_killed_workers_job_finishes_on_the_next_with_attempt_2_and_one_set_of_images(
    deployment: Stack, database: Database
) -> None:
    deployment.sweeper()
    victim = deployment.worker()
    job = submit(database, params=steps(20) | {"num_images": 2})
    eventually(lambda: denoising(database, job.id), what="the first step")
    victim.signal(signal.SIGKILL)
    deployment.worker()
    done = until_finished(database, job.id)
    assert (done.state, done.attempt, len(done.images)) == (JobState.SUCCEEDED, 2, 2)
    with database.read() as connection:
        rows = connection.execute(select(attempts.c.outcome).order_by(attempts.c.fence)).scalars().all()
        assert list(rows) == ["lost", "succeeded"]
        assert connection.execute(select(func.count()).select_from(images)).scalar_one() == 2
        kinds = list(connection.execute(select(job_events.c.kind).order_by(job_events.c.version)).scalars())
        assert kinds.count("job.succeeded") == 1
    store = open_store(deployment.settings.store, None)
    for image in done.images:
        assert hashlib.sha256(store.get(image.key)).hexdigest() == image.sha256


@pytest.mark.parametrize("signals", [1, 4])
def test_sigterm_with_jobs_that_fit_the_grace_finishes_them_and_exits_0(
    deployment: Stack, database: Database, signals: int
) -> None:
    worker = deployment.worker(DARKROOM_DRAIN_SECONDS="30")
    made = [submit(database, params=steps(15)) for _ in range(8)]
    eventually(lambda: any(denoising(database, job.id) for job in made), what="the first step")
    for _ in range(signals):
        worker.signal(signal.SIGTERM)
    assert worker.wait() == 0
    for job in made:
        seen = look_at(database, job.id)
        assert seen.state in {JobState.SUCCEEDED, JobState.QUEUED}
    assert_nothing_spent(database)


@pytest.mark.parametrize("signals", [1, 4])
def test_sigterm_with_jobs_that_do_not_fit_releases_them_with_the_try_given_back(
    deployment: Stack, database: Database, signals: int
) -> None:
    worker = deployment.worker(DARKROOM_DRAIN_SECONDS="1")
    made = [submit(database, params=steps(500)) for _ in range(8)]
    eventually(lambda: any(denoising(database, job.id) for job in made), what="the first step")
    for number in ([signal.SIGTERM] * signals) + [signal.SIGINT] * (signals - 1):
        worker.signal(number)
    assert worker.wait() == 0
    assert {look_at(database, job.id).state for job in made} == {JobState.QUEUED}
    assert_nothing_spent(database)


def assert_nothing_spent(database: Database) -> None:
    with database.read() as connection:
        waiting = select(func.coalesce(func.max(jobs.c.tries), 0)).where(jobs.c.state == JobState.QUEUED)
        assert connection.execute(waiting).scalar_one() == 0
        assert connection.execute(select(func.max(jobs.c.tries))).scalar_one() <= 1
        running = select(func.count()).select_from(jobs).where(jobs.c.state == JobState.RUNNING)
        assert connection.execute(running).scalar_one() == 0


def test_a_running_job_that_is_cancelled_leaves_the_device_at_the_next_step(
    deployment: Stack, database: Database
) -> None:
    deployment.worker()
    job = submit(database, params=steps(500))
    eventually(lambda: denoising(database, job.id), what="the first step")
    with database.write() as connection:
        cancel_job(connection, "default", job.id)
    done = until_finished(database, job.id, seconds=5)
    assert (done.state, done.images) == (JobState.CANCELED, [])
    following = submit(database, params=steps(1))
    assert until_finished(database, following.id).state is JobState.SUCCEEDED


# On SQLite a process that is stopped while it writes stops every writer until it wakes.
@pytest.mark.parametrize("deployment", ["full"], indirect=True)
@pytest.mark.postgres
@pytest.mark.redis
def test_a_zombie_that_wakes_after_its_lease_writes_nothing(deployment: Stack, database: Database) -> None:
    deployment.sweeper()
    zombie = deployment.worker()
    job = submit(database, params=steps(15))
    eventually(lambda: denoising(database, job.id), what="the first step")
    zombie.signal(signal.SIGSTOP)
    deployment.worker()
    done = until_finished(database, job.id)
    zombie.signal(signal.SIGCONT)
    eventually(lambda: "job.lost" in zombie.log.read_text(), what="the zombie's insight")
    after = look_at(database, job.id)
    assert (after.version, after.attempt, after.images) == (done.version, 2, done.images)


def test_jobs_are_done_without_any_doorbell(deployment: Stack, database: Database) -> None:
    worker = deployment.worker(DARKROOM_DOORBELLS="false")
    made = [submit(database, params=steps(1)) for _ in range(5)]
    for job in made:
        assert until_finished(database, job.id).state is JobState.SUCCEEDED
    worker.signal(signal.SIGTERM)
    assert worker.wait() == 0


def test_the_launcher_replaces_a_worker_that_dies_and_drains_with_it(deployment: Stack, database: Database) -> None:
    deployment.sweeper()
    launcher = deployment.start("client.cli", "worker", "--device", "stub")
    (first,) = eventually(lambda: processes(database), what="the first worker")
    job = submit(database, params=steps(20))
    eventually(lambda: denoising(database, job.id), what="the first step")
    os.kill(first, signal.SIGKILL)
    done = until_finished(database, job.id)
    assert (done.state, done.attempt) == (JobState.SUCCEEDED, 2)
    assert processes(database) - {first}
    launcher.signal(signal.SIGTERM)
    assert launcher.wait() == 0


@pytest.mark.parametrize("deployment", ["embedded"], indirect=True)
def test_a_worker_killed_from_outside_over_and_over_poisons_nobody_and_is_not_waited_for(
    deployment: Stack, database: Database
) -> None:
    deployment.sweeper()
    launcher = deployment.start("client.cli", "worker", "--device", "stub", DARKROOM_LEASE_SECONDS="600")
    job = submit(database, params=steps(40), max_tries=9)
    for number in range(1, 4):
        eventually(lambda number=number: look_at(database, job.id).attempt == number, what="an attempt")  # type: ignore[misc]
        os.kill(holder(database, job.id), signal.SIGKILL)
    done = until_finished(database, job.id)
    assert (done.state, done.attempt) == (JobState.SUCCEEDED, 4)
    with database.read() as connection:
        assert connection.execute(select(jobs.c.solo, jobs.c.solo_crashes)).one() == (False, 0)
    launcher.signal(signal.SIGTERM)
    assert launcher.wait() == 0


def holder(database: Database, job_id: str) -> int:
    """The process that holds the job."""
    query = select(workers.c.pid).join(jobs, jobs.c.worker_id == workers.c.id).where(jobs.c.id == job_id)
    with database.read() as connection:
        return int(connection.execute(query).scalar_one())


def processes(database: Database) -> set[int]:
    with database.read() as connection:
        return set(connection.execute(select(workers.c.pid)).scalars())
