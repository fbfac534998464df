"""Case 17: the clock of a worker, or of a sweeper, is off by ten minutes, and no lease ends early or late."""

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import select

from common.db.engine import Database
from common.db.tables import attempts, jobs
from common.db.types import now
from common.domain.lifecycle import JobState
from tests.faults.clocks import shifted_clock
from tests.making import submit
from tests.processes.harness import Stack, eventually, look_at, stack, until_finished

# On SQLite the clock of the database is that of the process: there is one machine then, and one clock.
pytestmark = [pytest.mark.processes, pytest.mark.postgres, pytest.mark.redis]

OFF_SECONDS = (600.0, -600.0)
LEASE_SECONDS = 2.0
# Lease, sweep and poll on the scaled clocks, three times: the machine may be busy.
RESCUE_SECONDS = 3 * (LEASE_SECONDS + 0.3 + 0.2)


@pytest.fixture
def deployment(postgres_database: Database, postgres_url: str, redis_url: str, tmp_path: Path) -> Iterator[Stack]:
    services = {"DARKROOM_DATABASE_URL": postgres_url, "DARKROOM_BROKER_URL": redis_url}
    with stack(tmp_path, DARKROOM_STUB_STEP_SECONDS="0.1", **services) as built:
        yield built


@pytest.fixture(params=OFF_SECONDS, ids=["ten minutes fast", "ten minutes slow"])
def wrong(request: pytest.FixtureRequest, tmp_path: Path) -> dict[str, str]:
    """The environment of a process whose clock is wrong."""
    return shifted_clock(tmp_path, request.param)


def steps(count: int) -> dict[str, int]:
    return {"num_inference_steps": count, "effective_steps": count}


def lease_left(database: Database, job_id: str) -> float | None:
    """Seconds until the lease ends by the database clock; None while nobody holds the job."""
    with database.read() as connection:
        query = select(jobs.c.lease_until, now().label("now")).where(jobs.c.id == job_id)
        row = connection.execute(query).one()
    return None if row.lease_until is None else float((row.lease_until - row.now).total_seconds())


def outcomes(database: Database, job_id: str) -> list[str]:
    query = select(attempts.c.outcome).where(attempts.c.job_id == job_id).order_by(attempts.c.fence)
    with database.read() as connection:
        return list(connection.execute(query).scalars())


def test_a_process_with_a_wrong_clock_reads_a_wrong_time(wrong: dict[str, str]) -> None:
    program = "import time, common.clock as c; print(time.time(), c.utc_now().timestamp())"
    ran = subprocess.run([sys.executable, "-c", program], env=wrong, capture_output=True, text=True, check=True)
    for told in map(float, ran.stdout.split()):
        assert abs(told - time.time()) == pytest.approx(600, abs=60)


def test_a_worker_whose_clock_is_off_keeps_its_lease_and_shows_true_figures(
    deployment: Stack, postgres_database: Database, wrong: dict[str, str]
) -> None:
    deployment.sweeper()
    job = submit(postgres_database, params=steps(60))
    began = time.monotonic()
    deployment.worker(**wrong)
    left: list[float] = []

    def look() -> bool:
        seconds = lease_left(postgres_database, job.id)
        left.extend([seconds] if seconds is not None else [])
        return look_at(postgres_database, job.id).state.is_terminal

    eventually(look, seconds=60, what="the end of the job")
    whole_ms = (time.monotonic() - began) * 1000
    done = look_at(postgres_database, job.id)
    assert (done.state, done.attempt, outcomes(postgres_database, job.id)) == (JobState.SUCCEEDED, 1, ["succeeded"])
    assert len(left) > 10
    assert max(left) <= LEASE_SECONDS
    assert 0 <= done.metrics["queue_ms"] <= whole_ms
    assert done.started_at is not None
    assert done.finished_at is not None
    assert done.created_at <= done.started_at <= done.finished_at


def test_the_job_of_a_dead_worker_whose_clock_was_off_is_rescued_after_its_lease_and_not_later(
    deployment: Stack, postgres_database: Database, wrong: dict[str, str]
) -> None:
    deployment.sweeper()
    victim = deployment.worker(**wrong)
    job = submit(postgres_database, params=steps(40))
    eventually(lambda: look_at(postgres_database, job.id).attempt == 1, what="the first attempt")
    deployment.worker()
    victim.signal(signal.SIGKILL)
    killed_at = time.monotonic()
    eventually(lambda: look_at(postgres_database, job.id).attempt == 2, what="the second attempt")
    assert time.monotonic() - killed_at <= RESCUE_SECONDS
    assert until_finished(postgres_database, job.id).state is JobState.SUCCEEDED


def test_a_sweeper_whose_clock_is_off_takes_no_job_from_a_living_worker(
    deployment: Stack, postgres_database: Database, wrong: dict[str, str]
) -> None:
    deployment.start("client.cli", "sweeper", **wrong)
    deployment.worker()
    job = submit(postgres_database, params=steps(60))
    done = until_finished(postgres_database, job.id, seconds=60)
    assert (done.state, outcomes(postgres_database, job.id)) == (JobState.SUCCEEDED, ["succeeded"])
