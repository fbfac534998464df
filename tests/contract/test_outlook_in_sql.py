"""The look at a pool that forecasts are made of, on both databases: what it sees, and that it stays small."""

from typing import Any

import pytest
from sqlalchemy import event, insert, select, text, update

from common.db.engine import Database
from common.db.jobs import cancel_job
from common.db.outlook import LOOK_JOBS, look_at_pool, next_start
from common.db.reports import report_progress
from common.db.tables import jobs, pools, workers
from common.db.types import after_now, now
from common.db.workers import WorkerCard, beat, register
from common.domain.fairness import Lane
from common.domain.job import Progress
from common.domain.outlook import PoolLook, RunningJob
from common.ids import new_id
from tests.making import claim, enlist, submit

FRESH_SECONDS = 30.0


def look(database: Database, pool: str = "default") -> PoolLook:
    with database.read() as connection:
        return look_at_pool(connection, pool, FRESH_SECONDS)


def multiply(database: Database) -> None:
    """A backlog of at least 3000: each round doubles the rows of the hot table."""
    with database.write() as connection:
        for number in range(12):
            values: list[Any] = [jobs.c.id + f"-{number}" if one is jobs.c.id else one for one in jobs.c]
            connection.execute(insert(jobs).from_select(jobs.c.keys(), select(*values)))
        connection.execute(text("ANALYZE jobs"))


def test_the_claimable_are_seen_in_the_order_of_service(database: Database) -> None:
    first, low, high, other = (
        submit(database, lane=lane, cost=cost, pool=pool)
        for lane, cost, pool in (
            (Lane.NORMAL, 8.0, "default"),
            (Lane.LOW, 1.0, "default"),
            (Lane.NORMAL, 2.0, "default"),
            (Lane.NORMAL, 2.0, "other"),
        )
    )
    held, canceled = submit(database), submit(database)
    with database.write() as connection:
        connection.execute(update(jobs).where(jobs.c.id == held.id).values(held="delayed", run_after=after_now(60)))
        cancel_job(connection, "default", canceled.id)
    seen = look(database)
    assert [(job.id, job.cost, job.model) for job in seen.queued] == [
        (first.id, 8.0, "stub"),
        (low.id, 1.0, "stub"),
        (high.id, 2.0, "stub"),
    ]
    assert [job.vtime for job in seen.queued] == sorted(job.vtime for job in seen.queued)
    assert [job.id for job in look(database, "other").queued] == [other.id]
    assert not seen.is_cut


def test_of_what_runs_only_the_newest_attempt_says_how_far_it_is(database: Database) -> None:
    submit(database, cost=4.0), submit(database, cost=4.0, params={"width": 128})
    worker = enlist(database)
    (one,), (other,) = claim(database, worker), claim(database, worker)
    with database.write() as connection:
        report_progress(connection, "default", one.id, one.fence, 1, Progress("denoising", 1, 4))
        report_progress(connection, "default", other.id, other.fence - 1, 1, Progress("denoising", 3, 4))
    seen = sorted(look(database).running, key=lambda job: job.done)
    assert seen == [RunningJob("stub", 4.0, 0.0), RunningJob("stub", 4.0, 0.25)]


def test_ready_workers_say_what_they_measured_and_the_others_do_not_count(database: Database) -> None:
    cards = [WorkerCard(new_id("wrk"), pool, "test", 1, "cpu") for pool in ("default",) * 5 + ("other",)]
    told: list[dict[str, float] | None] = [{"sd15": 0.1234, "sdxl": 2.5}, None, {"sd15": 1.0}, {"sd15": 1.0}]
    with database.write() as connection:
        for card in cards:
            register(connection, card)
        for card, paces, state in zip(cards, told, ("ready", "ready", "draining", "ready"), strict=False):
            beat(connection, card, state=state, resident=(), paces=paces)
        stale, dead = workers.c.id == cards[3].id, workers.c.id == cards[4].id
        connection.execute(update(workers).where(stale).values(heartbeat_at=after_now(-FRESH_SECONDS - 1)))
        connection.execute(update(workers).where(dead).values(ended="crashed"))
    seen = look(database)
    assert sorted(seen.paces, key=len) == [{}, {"sd15": 0.1234, "sdxl": 2.5}]
    with database.write() as connection:  # the pace of a heartbeat replaces that of the one before
        beat(connection, cards[0], state="ready", resident=(), paces=None)
    assert list(look(database).paces) == [{}, {}]


def test_what_another_release_says_of_paces_is_left_out(database: Database) -> None:
    worker = enlist(database)
    for paces in ([1, 2], {"sd15": "fast", "sdxl": 0, "sd21": 2}):
        with database.write() as connection:
            connection.execute(update(workers).where(workers.c.id == worker).values(paces=paces))
        assert look(database).paces == [{} if isinstance(paces, list) else {"sd21": 2.0}]


def test_a_paused_pool_is_seen_as_such(database: Database) -> None:
    submit(database), enlist(database)
    assert not look(database).is_paused
    with database.write() as connection:
        connection.execute(update(pools).where(pools.c.name == "default").values(paused_at=now()))
    assert look(database).is_paused


def test_the_look_is_bounded_whatever_is_queued(database: Database) -> None:
    submit(database), enlist(database)
    multiply(database)
    asked: list[tuple[str, Any]] = []

    def note(_connection: Any, _cursor: Any, statement: str, parameters: Any, *_rest: Any) -> None:
        if statement.startswith("SELECT"):
            asked.append((statement, parameters))

    event.listen(database.engine, "before_cursor_execute", note)
    try:
        seen = look(database)
    finally:
        event.remove(database.engine, "before_cursor_execute", note)
    assert (len(seen.queued), seen.is_cut) == (LOOK_JOBS, True)
    assert len(asked) == 3
    with database.read() as connection:
        assert connection.execute(text("SELECT count(*) FROM jobs")).scalar_one() > 3000
        explain = "EXPLAIN QUERY PLAN" if database.is_sqlite else "EXPLAIN (ANALYZE, COSTS OFF, TIMING OFF)"
        plan = [str(row) for row in connection.exec_driver_sql(f"{explain} {asked[0][0]}", asked[0][1])]
    (scan,) = [line for line in plan if "ix_jobs_claim" in line]
    assert "ix_jobs_claim_" not in scan
    assert not any("SORT" in line.upper() or "TEMP B-TREE" in line for line in plan), plan
    if not database.is_sqlite:
        assert float(scan.split("rows=")[1].split()[0]) <= LOOK_JOBS


@pytest.mark.parametrize("lane", list(Lane))
def test_the_next_tag_is_the_one_that_a_submit_then_draws(database: Database, lane: Lane) -> None:
    for cost in (8.0, 3.0):
        submit(database, lane=lane, cost=cost)
    claim(database, enlist(database))
    with database.read() as connection:
        expected = next_start(connection, pool="default", tenant_id="default", lane=lane)
        unused = next_start(connection, pool="unused", tenant_id="default", lane=lane)
    job = submit(database, lane=lane)
    with database.read() as connection:
        drawn = connection.execute(select(jobs.c.vtime).where(jobs.c.id == job.id)).scalar_one()
    assert drawn == pytest.approx(expected)
    assert unused == 0.0
