"""The look at a batch that its outlook is made of, on both databases."""

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from sqlalchemy import insert, text, update

from common.db.batch_outlook import look_at_batch
from common.db.engine import Database
from common.db.reports import report_progress
from common.db.tables import jobs, tenants
from common.domain.batch import BatchCounts, BatchSnapshot, BatchState
from common.domain.batch_outlook import Part, Share
from common.domain.fairness import Lane
from common.domain.job import NewJob, Progress
from common.domain.outlook import RunningJob
from tests.making import claim, enlist, submit

BATCH = BatchSnapshot(
    id="bat_1",
    tenant_id="default",
    name=None,
    state=BatchState.RUNNING,
    version=2,
    lane="low",
    total=10,
    validated=10,
    inserted=10,
    counts=BatchCounts(10, 10, 0, 0, 0, 0),
    on_invalid="reject",
    errors=[],
    error_count=0,
    cancel_requested=False,
    retry_of=None,
    metadata={},
    created_at=datetime(2026, 1, 1, tzinfo=UTC),
    started_at=None,
    finished_at=None,
)


def add(database: Database, **changes: Any) -> NewJob:
    """A job of the batch."""
    job = submit(database, **{"lane": Lane.LOW} | changes)
    with database.write() as connection:
        connection.execute(update(jobs).where(jobs.c.id == job.id).values(batch_id=BATCH.id))
    return job


def look(database: Database, queued: int = 10) -> list[Part]:
    batch = replace(BATCH, total=queued, inserted=queued, counts=BatchCounts(queued, queued, 0, 0, 0, 0))
    with database.read() as connection:
        return look_at_batch(connection, batch)


def test_a_batch_without_jobs_has_no_part(database: Database) -> None:
    submit(database)
    assert look(database) == []


def test_waiting_jobs_are_summed_by_pool_and_model(database: Database) -> None:
    first, *_ = (add(database, cost=cost) for cost in (2.0, 3.0))
    held = add(database, cost=7.0)
    add(database, cost=4.0, pool="other", params={"model": "second"})
    submit(database, cost=99.0, lane=Lane.LOW)
    with database.write() as connection:
        connection.execute(update(jobs).where(jobs.c.id == held.id).values(held="intake"))
    one, other = look(database)
    assert (one.pool, list(one.waiting)) == ("default", [Share("stub", 3, 12.0, 5.0)])
    assert (one.first, one.last) == ((0.0, first.id), 5.0)
    assert (other.pool, list(other.waiting)) == ("other", [Share("second", 1, 4.0, 4.0)])


def test_the_flows_of_the_pool_come_with_their_weights(database: Database) -> None:
    with database.write() as connection:
        connection.execute(insert(tenants).values(id="heavy", name="Heavy", weight=3.0))
    add(database, cost=2.0)
    submit(database, tenant_id="heavy", cost=12.0)
    (part,) = look(database)
    assert sorted((flow.weight, flow.finish, flow.is_own) for flow in part.flows) == [
        (1.0, 2.0, True),
        (12.0, 1.0, False),
    ]


def test_of_jobs_with_one_tag_the_first_of_the_batch_is_found(database: Database) -> None:
    submit(database)
    made = [add(database) for _ in range(2)]
    with database.write() as connection:
        connection.execute(update(jobs).values(vtime=1.0))
    (part,) = look(database)
    assert part.first == (1.0, min(job.id for job in made))


def test_running_jobs_say_how_far_they_are_and_ended_ones_nothing(database: Database) -> None:
    add(database, cost=4.0)
    (job,) = claim(database, enlist(database))
    with database.write() as connection:
        report_progress(connection, "default", job.id, job.fence, 1, Progress("denoising", 1, 4))
    (part,) = look(database)
    assert (list(part.waiting), list(part.running), part.first) == ([], [RunningJob("stub", 4.0, 0.25)], None)
    with database.write() as connection:
        connection.execute(
            text("UPDATE jobs SET state = 'canceled', worker_id = NULL, lease_until = NULL, finished_at = created_at")
        )
    assert look(database) == []


def test_of_many_jobs_a_sample_from_both_ends_stands_for_all(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("common.db.batch_outlook.SAMPLE", 2)
    made = [add(database, cost=cost) for cost in (1.0, 1.0, 5.0, 5.0, 5.0, 3.0, 3.0, 1.0)]
    with database.write() as connection:
        connection.execute(update(jobs).where(jobs.c.id == made[-1].id).values(held="intake"))
    (part,) = look(database, queued=8)
    assert (part.first, part.last) == ((0.0, made[0].id), 23.0)
    assert list(part.waiting) == [Share("stub", 8.0, 15.0, 14.0)]


def test_of_many_held_jobs_a_sample_stands_for_as_many_as_there_are(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("common.db.batch_outlook.SAMPLE", 2)
    made = [add(database, cost=1.0) for _ in range(12)]
    with database.write() as connection:
        held = jobs.c.id.in_([job.id for job in made[:7]])
        connection.execute(update(jobs).where(held).values(held="paused"))
    (part,) = look(database, queued=12)
    assert list(part.waiting) == [Share("stub", 12.0, 12.0, 5.0)]
