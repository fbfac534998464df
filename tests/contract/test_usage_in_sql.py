"""What tenants used, on both databases: what counts, when, and that writers do not wait for each other."""

from collections.abc import Callable

import pytest
from sqlalchemy import Connection, insert, select, update

from common.db import claims
from common.db.engine import Database
from common.db.jobs import cancel_job
from common.db.rescue import end_queued, rescue_expired
from common.db.tables import jobs, tenants, usage_days
from common.db.types import after_now
from common.db.usage import SHARDS, UsageDay, Used, account, read_usage
from common.domain.job import ClaimedJob
from common.domain.retry import TryAgain
from tests.making import claim, enlist, make_image, submit


def used(database: Database, tenant_id: str = "default") -> tuple[int, int, float]:
    """Jobs, images and device seconds of today."""
    with database.read() as connection:
        (today,) = read_usage(connection, tenant_id, 1)
    return today.jobs, today.images, today.device_seconds


def running(database: Database) -> ClaimedJob:
    submit(database, params={"num_images": 2})
    (job,) = claim(database, enlist(database), limit=1)
    return job


def test_what_waits_and_what_begins_has_used_nothing(database: Database) -> None:
    submit(database)
    running(database)
    assert used(database) == (0, 0, 0.0)
    with database.read() as connection:
        assert connection.execute(select(usage_days)).all() == []


def test_a_success_counts_its_images_and_its_share_of_the_device(database: Database) -> None:
    job = running(database)
    with database.write() as connection:
        images = [make_image(job, index) for index in range(2)]
        assert claims.finish(connection, job, images, {}, device_seconds=2.5)
        assert not claims.finish(connection, job, images, {}, device_seconds=2.5)  # the same said twice
    assert used(database) == (1, 2, 2.5)


def _fail(connection: Connection, job: ClaimedJob) -> bool:
    return claims.fail(connection, job.id, job.fence, {"code": "internal"}, device_seconds=1.5)


def _cancel(connection: Connection, job: ClaimedJob) -> bool:
    return claims.cancel_running(connection, job.id, job.fence, device_seconds=1.5)


def _hand_back(connection: Connection, job: ClaimedJob) -> bool:
    return claims.hand_back(connection, job.id, job.fence, TryAgain(), "internal", device_seconds=1.5)


@pytest.mark.parametrize(("end", "ended"), [(_fail, 1), (_cancel, 1), (_hand_back, 0)])
def test_an_attempt_without_success_counts_what_it_took_and_its_job_once_it_is_over(
    database: Database, end: Callable[[Connection, ClaimedJob], bool], ended: int
) -> None:
    job = running(database)
    with database.write() as connection:
        assert end(connection, job)
    assert used(database) == (ended, 0, 1.5)


def test_jobs_that_end_without_a_device_count_as_jobs(database: Database) -> None:
    lost = running(database)
    canceled, late = submit(database), submit(database)
    with database.write() as connection:
        cancel_job(connection, "default", canceled.id)
        connection.execute(update(jobs).where(jobs.c.id == late.id).values(deadline_at=after_now(-1)))
        gone = {"lease_until": after_now(-60), "max_tries": 1}
        connection.execute(update(jobs).where(jobs.c.id == lost.id).values(gone))
        end_queued(connection)
        rescue_expired(connection, 0.0)
    assert used(database) == (3, 0, 0.0)


def test_each_tenant_has_its_own_account(database: Database) -> None:
    with database.write() as connection:
        connection.execute(insert(tenants).values(id="other", name="Other"))
        account(connection, "other", jobs=1, used=Used(3, 1.0))
        account(connection, "other", jobs=1, used=Used(1, 0.5))
    assert (used(database), used(database, "other")) == ((0, 0, 0.0), (2, 4, 1.5))


def test_days_come_newest_first_without_a_gap_and_shards_add_up(database: Database) -> None:
    with database.read() as connection:
        days = [day.day for day in read_usage(connection, "default", 4)]
    rows = [
        {"tenant_id": "default", "day": day.isoformat(), "shard": shard, "jobs": 1, "images": 2, "device_seconds": 0.5}
        for day, shard in ((days[2], 0), (days[2], 1), (days[3], 0))
    ]
    with database.write() as connection:
        connection.execute(insert(usage_days), rows)
    with database.read() as connection:
        found = read_usage(connection, "default", 3)
    assert found == [UsageDay(days[0]), UsageDay(days[1]), UsageDay(days[2], 2, 4, 1.0)]
    assert days == sorted(days, reverse=True)


@pytest.mark.postgres
def test_writers_at_the_same_time_have_rows_of_their_own(postgres_database: Database) -> None:
    with postgres_database.write() as first, postgres_database.write() as second:
        pids = [one.exec_driver_sql("SELECT pg_backend_pid()").scalar_one() for one in (first, second)]
        if pids[0] % SHARDS == pids[1] % SHARDS:
            pytest.skip("the two sessions share a row by chance")
        second.exec_driver_sql("SET LOCAL lock_timeout = '2s'")
        account(first, "default", jobs=1, used=Used())
        account(second, "default", jobs=1, used=Used())
    assert used(postgres_database)[0] == 2
