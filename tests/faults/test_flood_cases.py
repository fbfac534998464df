"""Case 25: a tenant that floods the queue delays its own jobs, not another tenant's."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import func, insert, select

from common.db.engine import Database
from common.db.jobs import insert_job
from common.db.tables import attempts, jobs, tenants
from common.domain.fairness import Lane
from common.domain.job import NewJob
from common.domain.lifecycle import JobState
from tests.making import make_job
from tests.processes.harness import Stack, eventually, stack

pytestmark = pytest.mark.processes

JOB_STEPS = {"num_inference_steps": 3, "effective_steps": 3}
PAGE = 500


@pytest.fixture(params=["embedded", pytest.param("full", marks=[pytest.mark.postgres, pytest.mark.redis])])
def deployment(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Stack]:
    """A worker's stack that runs one image at a time."""
    services: dict[str, str] = {}
    if request.param == "full":
        request.getfixturevalue("postgres_database").close()  # empties it
        url = request.getfixturevalue("postgres_url")
        services = {"DARKROOM_DATABASE_URL": url, "DARKROOM_BROKER_URL": request.getfixturevalue("redis_url")}
    with stack(tmp_path, DARKROOM_BATCH_FRAMES="1", DARKROOM_STUB_STEP_SECONDS="0.1", **services) as built:
        yield built


@pytest.fixture
def database(deployment: Stack) -> Iterator[Database]:
    opened = deployment.database
    with opened.write() as connection:
        connection.execute(insert(tenants).values(id="other", name="Other"))
    yield opened
    opened.close()


def submit_many(database: Database, count: int, *, tenant_id: str, lane: Lane) -> list[NewJob]:
    made = [make_job(tenant_id=tenant_id, lane=lane, params=JOB_STEPS | {"seed": seed}) for seed in range(count)]
    for start in range(0, count, PAGE):
        with database.write() as connection:
            for job in made[start : start + PAGE]:
                insert_job(connection, job)
    return made


def started(database: Database, tenant_id: str) -> int:
    """How many of the tenant's jobs have reached the device."""
    query = select(func.count()).select_from(jobs).where(jobs.c.tenant_id == tenant_id, jobs.c.attempt > 0)
    with database.read() as connection:
        return int(connection.execute(query).scalar_one())


@pytest.mark.parametrize("lane", [Lane.NORMAL, Lane.LOW])
@pytest.mark.parametrize(
    "flood", [500, pytest.param(10_000, marks=[pytest.mark.chaos, pytest.mark.timeout(900)])], ids=["scaled", "full"]
)
def test_while_a_tenant_floods_low_jobs_another_tenants_job_starts_within_two_job_times(
    deployment: Stack, database: Database, flood: int, lane: Lane
) -> None:
    """Two of the flood may reach the device after it was submitted: the one that was ready, and the one behind it."""
    submit_many(database, flood, tenant_id="default", lane=Lane.LOW)
    deployment.worker()
    eventually(lambda: started(database, "default") > 2, what="some jobs of the flood")
    (job,) = submit_many(database, 1, tenant_id="other", lane=lane)
    eventually(lambda: started(database, "other"), what="the other tenant's job")
    mine = select(attempts.c.joined_at, jobs.c.created_at).join(jobs, jobs.c.id == attempts.c.job_id)
    with database.read() as connection:
        row = connection.execute(mine.where(jobs.c.id == job.id)).one()
        between = (attempts.c.joined_at > row.created_at) & (attempts.c.joined_at < row.joined_at)
        ahead = connection.execute(select(func.count()).select_from(attempts).where(between)).scalar_one()
        left = select(func.count()).select_from(jobs).where(jobs.c.state == JobState.QUEUED)
        assert connection.execute(left).scalar_one() > flood / 2
    assert ahead <= 2
