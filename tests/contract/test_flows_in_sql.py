"""Tags in SQL, on both databases: what a flow is charged, and what a canceled job gives back to it."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import delete, func, insert, select, update

from common.db.edits import JobEdit, edit_job
from common.db.engine import Database
from common.db.erasing import erase_job
from common.db.flows import draw_tag, draw_tags, lock_flows
from common.db.jobs import cancel_job
from common.db.tables import flows, job_requests, jobs, tenants
from common.domain.fairness import Lane
from common.domain.job import NewJob
from tests.contract.waiting_writers import is_waiting
from tests.making import claim, enlist, submit
from tests.waiting import wait_until


def move_to_high(connection: Any, tenant_id: str, job_id: str) -> None:
    edit_job(connection, tenant_id, job_id, JobEdit(Lane.HIGH))


def cancel(database: Database, job: NewJob) -> None:
    with database.write() as connection:
        cancel_job(connection, "default", job.id)


def finish(database: Database, lane: Lane = Lane.NORMAL) -> float:
    with database.read() as connection:
        return float(connection.execute(select(flows.c.finish).where(flows.c.lane == lane)).scalar_one())


def vtime(database: Database, job: NewJob) -> float:
    with database.read() as connection:
        return float(connection.execute(select(jobs.c.vtime).where(jobs.c.id == job.id)).scalar_one())


def test_a_flow_is_charged_measured_seconds(database: Database) -> None:
    submit(database, cost=4.0, scale=3.0)
    assert finish(database) == 3.0
    job = submit(database, cost=4.0)
    assert (vtime(database, job), finish(database)) == (3.0, 4.0)
    with database.write() as connection:
        edit_job(connection, "default", job.id, JobEdit(Lane.LOW, scale=2.0))
    assert finish(database, Lane.LOW) == 8.0
    with database.read() as connection:  # what the catalogue predicts stays, for forecasts scale it themselves
        assert connection.execute(select(jobs.c.cost).where(jobs.c.id == job.id)).scalar_one() == 4.0


def test_the_last_job_of_a_flow_gives_back_its_share_when_it_is_canceled(database: Database) -> None:
    kept, *gone = [submit(database, cost=cost) for cost in (0.1, 0.7, 1.3, 0.3)]
    end = vtime(database, gone[0])
    for job in reversed(gone):
        cancel(database, job)
    assert finish(database) == end
    assert vtime(database, submit(database)) == pytest.approx(end, rel=1e-12)
    cancel(database, kept)
    assert finish(database) == pytest.approx(end + 0.25)


def test_one_in_the_midst_gives_nothing_back_and_neither_does_one_of_another_lane(database: Database) -> None:
    midst, last = submit(database, cost=4.0), submit(database, cost=4.0)
    other = submit(database, cost=4.0, lane=Lane.LOW)
    cancel(database, midst)
    assert (finish(database), finish(database, Lane.LOW)) == (2.0, 4.0)
    cancel(database, last)
    assert (finish(database), finish(database, Lane.LOW)) == (1.0, 4.0)
    cancel(database, other)
    assert (finish(database), finish(database, Lane.LOW)) == (1.0, 0.0)


def test_what_was_tried_and_what_runs_stays_charged(database: Database) -> None:
    job = submit(database, cost=4.0)
    claim(database, enlist(database))
    cancel(database, job)
    assert finish(database) == 1.0
    job = submit(database, cost=4.0)
    with database.write() as connection:
        connection.execute(update(jobs).where(jobs.c.id == job.id).values(tries=1, fence=1))
    cancel(database, job)
    assert finish(database) == 2.0


def test_a_job_of_an_earlier_release_is_canceled_all_the_same(database: Database) -> None:
    job = submit(database, cost=4.0)
    with database.write() as connection:
        connection.execute(update(jobs).values(vfinish=None))
    cancel(database, job)
    assert finish(database) == 1.0


def test_a_job_that_left_its_lane_gives_back_where_it_is_now(database: Database) -> None:
    job = submit(database, cost=4.0)
    with database.write() as connection:
        edit_job(connection, "default", job.id, JobEdit(Lane.HIGH))
    assert finish(database, Lane.HIGH) == 0.5
    cancel(database, job)
    assert (finish(database), finish(database, Lane.HIGH)) == (1.0, 0.0)


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.floats(0.001, 1e4), min_size=1, max_size=8))
def test_tags_drawn_at_once_are_those_drawn_one_after_another(sqlite_database: Database, costs: list[float]) -> None:
    with sqlite_database.write() as connection:
        connection.execute(delete(flows))
        flow: dict[str, Any] = {"pool": "default", "tenant_id": "default"}
        at_once = draw_tags(connection, lane=Lane.LOW, costs=costs, **flow)
        singly = [draw_tag(connection, lane=Lane.NORMAL, cost=4 * cost, **flow) for cost in costs]
    assert [tag.start for tag in at_once] == pytest.approx([tag.start for tag in singly])
    assert all(sooner.finish == later.start for sooner, later in pairwise(at_once))
    assert finish(sqlite_database, Lane.LOW) == at_once[-1].finish


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.floats(0.01, 1e4), st.booleans()), min_size=1, max_size=8))
def test_tags_of_a_flow_never_go_back_whatever_is_canceled(
    sqlite_database: Database, history: list[tuple[float, bool]]
) -> None:
    with sqlite_database.write() as connection:
        connection.execute(delete(flows))
    standing: list[NewJob] = []
    for cost, is_canceled in history:
        standing.append(submit(sqlite_database, cost=cost))
        if is_canceled:
            cancel(sqlite_database, standing.pop())
    tags = [vtime(sqlite_database, job) for job in standing]
    assert all(later > sooner for sooner, later in pairwise(tags))
    costs = sum(job.cost for job in standing) / 4
    assert finish(sqlite_database) == pytest.approx(costs, abs=1e-9)


def test_behind_ten_thousand_low_jobs_a_normal_one_of_another_tenant_is_next(database: Database) -> None:
    submit(database, lane=Lane.LOW, params={"deterministic": True})
    with database.write() as connection:
        connection.execute(insert(tenants).values(id="other", name="Other"))
        for doubling in range(14):
            values: list[Any] = [jobs.c.id + f"-{doubling}" if one is jobs.c.id else one for one in jobs.c]
            values[list(jobs.c).index(jobs.c.vtime)] = jobs.c.vtime + 2.0**doubling
            connection.execute(insert(jobs).from_select(jobs.c.keys(), select(*values)))
        requests = job_requests.c
        values = [jobs.c.id if one is requests.job_id else one for one in requests]
        copies = select(*values).join_from(job_requests, jobs, jobs.c.id != requests.job_id)
        connection.execute(insert(job_requests).from_select(requests.keys(), copies))
        connection.execute(update(flows).values(finish=2.0**14))
        assert connection.execute(select(func.count()).select_from(jobs)).scalar_one() > 10_000
    workers = [enlist(database) for _ in range(8)]
    for worker in workers:
        claim(database, worker)
    normal = submit(database, tenant_id="other", params={"deterministic": True})
    # The first in order when it came had the tag that virtual time was at; nobody else comes before it.
    assert normal.id in {job.id for worker in workers[:2] for job in claim(database, worker)}


@pytest.mark.postgres
@pytest.mark.parametrize("end", [cancel_job, erase_job, move_to_high])
def test_whoever_ends_or_moves_a_queued_job_waits_for_its_flow_and_holds_no_job_meanwhile(
    postgres_database: Database, end: Callable[[Any, str, str], object]
) -> None:
    """Flows first, then jobs, as a submit has it: the other way round two of them would wait for each other."""
    job = submit(postgres_database)
    with ThreadPoolExecutor(1) as pool:
        with postgres_database.write() as connection:
            lock_flows(connection, pool="default", tenant_id="default")
            late = pool.submit(postgres_database.transact, lambda c: end(c, "default", job.id))
            wait_until(lambda: is_waiting(postgres_database))
            mine = select(jobs.c.id).where(jobs.c.id == job.id)
            assert connection.execute(mine.with_for_update(skip_locked=True)).one_or_none() is not None
        late.result(timeout=20)
