"""Pausing, resuming and canceling batches in SQL, on both databases, and what comes back to a paused one."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import delete, insert, select, update

from common.db import batch_wishes as sql
from common.db import claims, intakes, rescue
from common.db.batch_work import NewItem, settle_batch
from common.db.edits import JobEdit, edit_job
from common.db.engine import Database
from common.db.flows import lock_flows
from common.db.tables import attempts, batches, flows, job_events, jobs, pools, tenants
from common.db.types import after_now
from common.domain.batch import BatchState
from common.domain.errors import Conflict
from common.domain.fairness import Lane
from common.domain.job import NewJob
from common.domain.lifecycle import Hold, JobState, Outcome
from common.domain.retry import TryAgain
from common.ids import new_id
from tests.contract.batch_making import (
    LEASE,
    even,
    fill,
    hand_in,
    jobs_where,
    look,
    make_items,
    note_drawn,
    put,
    start,
    states_of,
)
from tests.contract.test_intakes_in_sql import CATALOGUE, REQUEST, URL, picture
from tests.contract.waiting_writers import is_waiting
from tests.making import claim, enlist, make_image, make_job, submit
from tests.waiting import wait_until

FREE = (jobs.c.state == JobState.QUEUED, jobs.c.held.is_(None))
PAUSED = (jobs.c.held == Hold.PAUSED,)


def pause(database: Database, batch_id: str) -> bool:
    return database.transact(lambda connection: sql.pause_batch(connection, "default", batch_id))


def resume(database: Database, batch_id: str, scale: sql.ScaleOf = even) -> sql.Released | None:
    return database.transact(lambda connection: sql.resume_batch(connection, "default", batch_id, scale))


def cancel(database: Database, batch_id: str) -> bool:
    return database.transact(lambda connection: sql.cancel_batch(connection, "default", batch_id))


def draw(database: Database, batch_id: str, limit: int = 5000) -> int:
    """Draw its flows together; how many pages that took."""
    cursor: sql.Cursor | None = None
    pages = 0
    while pages == 0 or cursor is not None:
        with database.write() as connection:
            cursor = sql.draw_together(connection, batch_id, even, cursor, limit=limit)
        pages += 1
    return pages


def tags(database: Database, *conditions: Any) -> list[float]:
    query = select(jobs.c.vtime).where(*FREE, *conditions).order_by(jobs.c.vtime, jobs.c.id)
    with database.read() as connection:
        return list(connection.execute(query).scalars())


def finish_of(database: Database, lane: Lane = Lane.LOW, pool: str = "default") -> float:
    mine = (flows.c.lane == lane) & (flows.c.pool == pool) & (flows.c.tenant_id == "default")
    with database.read() as connection:
        return float(connection.execute(select(flows.c.finish).where(mine)).scalar_one())


def test_no_job_of_a_paused_batch_is_claimed_and_what_runs_goes_on(database: Database) -> None:
    work, _ = fill(database, 3)
    worker = enlist(database)
    (held,) = claim(database, worker, limit=1)
    assert pause(database, work.id)
    found = look(database, work.id)
    assert (found.state, found.version, found.counts.queued, found.counts.running) == (BatchState.PAUSED, 3, 2, 1)
    assert claim(database, worker) == []
    with database.write() as connection:
        assert claims.finish(connection, held, [make_image(held)], {})
    assert pause(database, work.id)
    assert look(database, work.id).version == 3


def test_resumed_jobs_come_at_the_end_of_their_flow_in_their_order(database: Database) -> None:
    work, filled = fill(database, 3)
    pause(database, work.id)
    other = submit(database, lane=Lane.LOW, cost=5.0)
    released = resume(database, work.id)
    assert released is not None
    assert released.pools == {"default": 3}
    with database.read() as connection:
        ids = connection.execute(select(jobs.c.id).order_by(jobs.c.vtime)).scalars().all()
    assert list(ids) == [other.id, *(job.id for job in filled)]
    assert tags(database) == [3.0, 8.0, 9.0, 10.0]
    assert finish_of(database) == 11.0
    assert resume(database, work.id) == sql.Released()
    found = look(database, work.id)
    assert (found.state, found.version) == (BatchState.RUNNING, 4)


def test_released_jobs_are_charged_what_workers_have_measured(database: Database) -> None:
    work, _ = fill(database, 2)
    pause(database, work.id)
    resume(database, work.id, lambda pool, model: 3.0 if (pool, model) == ("default", "stub") else 1.0)
    assert tags(database) == [2.0, 5.0]
    assert finish_of(database) == 8.0


def test_wishes_of_another_tenant_find_nothing(database: Database) -> None:
    work, _ = fill(database, 1)
    with database.write() as connection:
        assert not sql.pause_batch(connection, "other", work.id)
        assert sql.resume_batch(connection, "other", work.id, even) is None
        assert not sql.cancel_batch(connection, "other", work.id)
    assert look(database, work.id).state is BatchState.RUNNING


@pytest.mark.parametrize("wish", [pause, resume])
def test_only_what_runs_or_is_paused_can_be_paused_or_resumed(
    database: Database, wish: Callable[[Database, str], object]
) -> None:
    fresh = hand_in(database, 1)
    with pytest.raises(Conflict) as refused:
        wish(database, fresh)
    assert refused.value.code == "not_editable"
    work, _ = fill_behind(database, fresh)
    claim(database, enlist(database))
    assert cancel(database, work.id)
    with pytest.raises(Conflict, match="canceled"):
        wish(database, work.id)


def fill_behind(database: Database, other: str) -> Any:
    """A running batch while another one waits for its validation."""
    with database.write() as connection:
        connection.execute(update(batches).where(batches.c.id == other).values(tend_at=None))
    return fill(database, 1)


def test_one_that_is_still_validated_is_canceled_at_once(database: Database) -> None:
    batch_id = hand_in(database, 5)
    assert cancel(database, batch_id)
    found = look(database, batch_id)
    assert (found.state, found.version, found.counts.canceled) == (BatchState.CANCELED, 2, 5)
    assert found.cancel_requested
    assert found.finished_at is not None
    assert cancel(database, batch_id)
    assert look(database, batch_id).version == 2


def test_a_cancel_ends_what_waits_and_wishes_it_of_what_runs(database: Database) -> None:
    work, _ = fill(database, 4)
    worker = enlist(database)
    joined, claimed = claim(database, worker, limit=2, company="step")
    with database.write() as connection:
        assert claims.join(connection, joined.id, joined.fence, "cpu")
    assert cancel(database, work.id)
    assert states_of(database, work.id) == {JobState.CANCELED: 3, JobState.RUNNING: 1}
    with database.read() as connection:
        ended = select(attempts.c.outcome).where(attempts.c.job_id == claimed.id)
        assert connection.execute(ended).scalar_one() == Outcome.CANCELED
        wished = select(jobs.c.cancel_requested_at).where(jobs.c.id == joined.id)
        assert connection.execute(wished).scalar_one() is not None
        kinds = connection.execute(select(job_events.c.kind).where(job_events.c.kind == "job.canceled")).all()
        assert len(kinds) == 3
    with database.write() as connection:
        assert sql.cancel_some(connection, work.id) == 0
        assert settle_batch(connection, work) is None
        assert claims.cancel_running(connection, joined.id, joined.fence)
        assert settle_batch(connection, work) is None
    note_drawn(database, work)
    with database.write() as connection:
        assert settle_batch(connection, work) is BatchState.CANCELED
    assert look(database, work.id).counts.canceled == 4


def test_a_paused_batch_can_be_canceled_with_what_awaits_its_images(database: Database) -> None:
    work = start(database, 3)
    waiting = NewItem(2, "c", make_job(lane=Lane.LOW), urls={"image": "https://a.example/b.png"})
    put(database, work, [*make_items(0, 2), waiting])
    pause(database, work.id)
    assert cancel(database, work.id)
    assert states_of(database, work.id) == {JobState.CANCELED: 3}


def test_each_wish_is_done_in_chunks(database: Database) -> None:
    work, _ = fill(database, 7)
    with database.write() as connection:
        connection.execute(update(batches).values({"state": BatchState.PAUSED}))
        assert [sql.hold_some(connection, work.id, limit=3) for _ in range(4)] == [3, 3, 1, 0]
        assert sql.release_some(connection, work.id, even) == sql.Released()
        connection.execute(update(batches).values({"state": BatchState.RUNNING}))
        assert sql.hold_some(connection, work.id) == 0
        released = [sql.release_some(connection, work.id, even, limit=3).pools for _ in range(4)]
        assert released == [{"default": 3}, {"default": 3}, {"default": 1}, {}]
        assert sql.cancel_some(connection, work.id) == 0
        connection.execute(update(batches).values(cancel_requested_at=after_now(0)))
        assert [sql.cancel_some(connection, work.id, limit=3) for _ in range(4)] == [3, 3, 1, 0]


def comes_back_retried(database: Database, batch_id: str, delay: float) -> None:
    (job,) = claim(database, enlist(database), limit=1)
    pause(database, batch_id)
    with database.write() as connection:
        assert claims.hand_back(connection, job.id, job.fence, TryAgain(delay), "store_failed")


def comes_back_rescued(database: Database, batch_id: str) -> None:
    claim(database, enlist(database), limit=1, lease_seconds=-60)
    pause(database, batch_id)
    with database.write() as connection:
        assert rescue.rescue_expired(connection, 0.5).ids


def comes_back_from_its_delay(database: Database, batch_id: str) -> None:
    comes_back_retried(database, batch_id, 60)
    assert jobs_where(database, batch_id, jobs.c.held == Hold.DELAYED) == 1
    with database.write() as connection:
        connection.execute(update(jobs).where(jobs.c.held == Hold.DELAYED).values(run_after=after_now(-1)))
        assert rescue.release_delayed(connection) == ["default"]


@pytest.mark.parametrize(
    "comes_back",
    [lambda d, b: comes_back_retried(d, b, 0), comes_back_rescued, comes_back_from_its_delay],
    ids=["retried", "rescued", "delayed"],
)
def test_what_comes_back_to_a_paused_batch_is_held(
    database: Database, comes_back: Callable[[Database, str], None]
) -> None:
    work, _ = fill(database, 2)
    comes_back(database, work.id)
    assert jobs_where(database, work.id, *PAUSED) == 2
    assert claim(database, enlist(database)) == []
    released = resume(database, work.id)
    assert released is not None
    assert released.pools == {"default": 2}


def test_an_image_that_comes_while_the_batch_is_paused_does_not_start_its_job(database: Database) -> None:
    work = start(database, 1)
    job = make_job(lane=Lane.LOW, request=REQUEST)
    put(database, work, [NewItem(0, "a", job, urls={"image": URL})])
    pause(database, work.id)
    with database.write() as connection:
        taken = intakes.take(connection, new_id("wrk"), LEASE)
        assert taken is not None
        assert intakes.complete(connection, taken, picture(), CATALOGUE) == "default"
    assert jobs_where(database, work.id, *PAUSED) == 1
    resume(database, work.id)
    assert len(claim(database, enlist(database))) == 1


def test_what_comes_back_to_a_running_batch_or_to_none_may_be_claimed(database: Database) -> None:
    work, _ = fill(database, 1)
    submit(database)
    pause(database, work.id)
    resume(database, work.id)
    worker = enlist(database)
    for job in claim(database, worker, company="step"):
        with database.write() as connection:
            assert claims.hand_back(connection, job.id, job.fence, TryAgain(), "store_failed")
    assert len(claim(database, worker, company="step")) == 2


def test_stragglers_of_a_race_are_met_by_the_next_tending(database: Database) -> None:
    work, _ = fill(database, 2)
    pause(database, work.id)
    with database.write() as connection:
        connection.execute(update(jobs).values(held=None))
        assert sql.hold_some(connection, work.id) == 2
        connection.execute(update(batches).values({"state": BatchState.RUNNING}))
        assert sql.release_some(connection, work.id, even).pools == {"default": 2}


def test_a_canceled_batch_leaves_no_gap_before_the_others_of_its_flow(database: Database) -> None:
    before = submit(database, lane=Lane.LOW)
    work, _ = fill(database, 100)
    behind = [submit(database, lane=Lane.LOW) for _ in range(3)]
    assert tags(database, jobs.c.id.in_([job.id for job in behind])) == [101.0, 102.0, 103.0]
    cancel(database, work.id)
    draw(database, work.id)
    assert tags(database) == [0.0, 1.0, 2.0, 3.0]
    assert finish_of(database) == 4.0
    assert tags(database, jobs.c.id == before.id) == [0.0]
    note_drawn(database, work)
    assert tags(database, jobs.c.id == submit(database, lane=Lane.LOW).id) == [4.0]


def test_other_flows_keep_their_places_and_each_of_its_own_is_drawn(database: Database) -> None:
    with database.write() as connection:
        connection.execute(insert(tenants).values(id="other", name="Other"))
    work = start(database, 20)
    put(database, work, [*make_items(0, 10), *make_items(10, 10, pool="gpu")])
    others = [submit(database, tenant_id="other", lane=Lane.LOW, cost=10.0) for _ in range(2)]
    fast = [submit(database, lane=Lane.HIGH, cost=80.0) for _ in range(2)]
    mine = [submit(database, lane=Lane.LOW, pool=pool) for pool in ("default", "gpu")]
    with database.write() as connection:  # a job of the batch that was put into another lane
        fifth = (jobs.c.batch_id == work.id) & (jobs.c.pool == "default") & (jobs.c.vtime == 5.0)
        moved = connection.execute(select(jobs.c.id).where(fifth)).scalar_one()
        edit_job(connection, "default", moved, JobEdit(Lane.NORMAL))
    cancel(database, work.id)
    assert draw(database, work.id) == 3
    assert tags(database, jobs.c.id.in_([job.id for job in mine])) == [0.0, 0.0]
    assert tags(database, jobs.c.id.in_([job.id for job in others])) == [0.0, 10.0]
    assert tags(database, jobs.c.id.in_([job.id for job in fast])) == [0.0, 10.0]
    assert (finish_of(database), finish_of(database, pool="gpu"), finish_of(database, Lane.NORMAL)) == (1.0, 1.0, 0.0)


def hold(database: Database, job: NewJob, held: Hold) -> None:
    with database.write() as connection:
        connection.execute(update(jobs).where(jobs.c.id == job.id).values(held=held))


def tag_of(database: Database, job: NewJob) -> float:
    with database.read() as connection:
        return float(connection.execute(select(jobs.c.vtime).where(jobs.c.id == job.id)).scalar_one())


def test_what_awaits_its_images_is_drawn_along_and_a_delayed_job_keeps_the_end_of_its_flow(database: Database) -> None:
    work, _ = fill(database, 10)
    awaiting, ready, delayed = (submit(database, lane=Lane.LOW) for _ in range(3))
    hold(database, awaiting, Hold.INTAKE)
    hold(database, delayed, Hold.DELAYED)
    cancel(database, work.id)
    draw(database, work.id, limit=1)
    assert [tag_of(database, job) for job in (awaiting, ready, delayed)] == [0.0, 1.0, 12.0]
    assert tag_of(database, submit(database, lane=Lane.LOW)) == 13.0


def test_no_tag_is_given_out_twice_beside_lines_of_a_paused_batch_that_await_their_images(database: Database) -> None:
    """Those are not paused before their images are there."""
    work, filled = fill(database, 4)
    mine = submit(database, lane=Lane.LOW)
    for job in filled[2:]:
        hold(database, job, Hold.INTAKE)
    pause(database, work.id)
    draw(database, work.id)
    assert (tag_of(database, mine), [tag_of(database, job) for job in filled[2:]]) == (0.0, [2.0, 3.0])
    assert tag_of(database, submit(database, lane=Lane.LOW)) == 4.0


def test_a_later_job_of_the_tenant_does_not_wait_for_what_a_paused_batch_would_take(database: Database) -> None:
    work, filled = fill(database, 50)
    behind = submit(database, lane=Lane.LOW)
    with database.write() as connection:
        connection.execute(update(pools).values(vtime=3.0))
    pause(database, work.id)
    assert draw(database, work.id) == 1
    later = submit(database, lane=Lane.LOW)
    assert (tag_of(database, behind), tag_of(database, later), finish_of(database)) == (3.0, 4.0, 5.0)
    resume(database, work.id)
    assert [tag_of(database, job) for job in filled] == [5.0 + number for number in range(50)]
    assert finish_of(database) == 55.0
    with database.write() as connection:
        connection.execute(update(pools).values(vtime=80.0))
    pause(database, work.id)
    draw(database, work.id)
    resume(database, work.id)
    assert tag_of(database, filled[0]) == 80.0


@pytest.mark.parametrize("wish", [pause, cancel])
def test_a_small_batch_reads_one_page_of_a_pool_however_many_jobs_of_others_wait(
    database: Database, wish: Callable[[Database, str], object]
) -> None:
    with database.write() as connection:
        connection.execute(insert(tenants).values(id="other", name="Other"))
    early = [submit(database, lane=Lane.LOW) for _ in range(5)]
    work, _ = fill(database, 1)
    for _ in range(12):
        submit(database, tenant_id="other", lane=Lane.LOW)
    wish(database, work.id)
    assert draw(database, work.id, limit=2) == 1
    assert [tag_of(database, job) for job in early] == [0.0, 1.0, 2.0, 3.0, 4.0]
    assert finish_of(database) == 5.0


def test_nothing_is_drawn_before_what_was_served(database: Database) -> None:
    work, _ = fill(database, 10)
    submit(database, lane=Lane.LOW)
    with database.write() as connection:
        connection.execute(update(pools).values(vtime=7.0))
    cancel(database, work.id)
    draw(database, work.id)
    assert tags(database) == [7.0]
    assert finish_of(database) == 8.0


def test_what_is_submitted_between_two_pages_is_met_by_a_later_one(database: Database) -> None:
    work, _ = fill(database, 10)
    for _ in range(4):
        submit(database, lane=Lane.LOW)
    cancel(database, work.id)
    with database.write() as connection:
        cursor = sql.draw_together(connection, work.id, even, None, limit=2)
    submit(database, lane=Lane.LOW)
    while cursor is not None:
        with database.write() as connection:
            cursor = sql.draw_together(connection, work.id, even, cursor, limit=2)
    assert tags(database) == [0.0, 1.0, 2.0, 3.0, 4.0]
    assert finish_of(database) == 5.0


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.floats(0.01, 1e3), st.integers(0, 2)), min_size=1, max_size=12), st.integers(1, 5))
def test_drawing_together_in_pages_raises_no_tag_and_closes_every_gap(
    sqlite_database: Database, history: list[tuple[float, int]], limit: int
) -> None:
    with sqlite_database.write() as connection:
        for table in (flows, pools, batches):
            connection.execute(delete(table))
        connection.execute(update(jobs).where(jobs.c.state == JobState.QUEUED).values(held=Hold.PAUSED))
    work = start(sqlite_database, len(history))
    for line, (cost, alone) in enumerate(history):
        put(sqlite_database, work, make_items(line, 1, cost=cost))
        for _ in range(alone):
            submit(sqlite_database, lane=Lane.LOW, cost=cost)
    before = tags(sqlite_database, jobs.c.batch_id.is_(None))  # those of earlier examples are held
    cancel(sqlite_database, work.id)
    draw(sqlite_database, work.id, limit)
    after = tags(sqlite_database)
    assert all(new <= old for new, old in zip(after, before, strict=True))
    assert all(sooner < later for sooner, later in pairwise(after))
    assert finish_of(sqlite_database) == pytest.approx(sum(cost * alone for cost, alone in history), abs=1e-9)


@pytest.mark.postgres
@pytest.mark.parametrize("change", [resume, cancel])
def test_whoever_moves_many_jobs_waits_for_their_flow_and_holds_none_meanwhile(
    postgres_database: Database, change: Callable[[Database, str], object]
) -> None:
    """Batch, flows, jobs: the other way round two of them would wait for each other."""
    work, filled = fill(postgres_database, 1)
    pause(postgres_database, work.id)
    with ThreadPoolExecutor(1) as pool:
        with postgres_database.write() as connection:
            lock_flows(connection, pool="default", tenant_id="default")
            late = pool.submit(change, postgres_database, work.id)
            wait_until(lambda: is_waiting(postgres_database))
            mine = select(jobs.c.id).where(jobs.c.id == filled[0].id)
            assert connection.execute(mine.with_for_update(skip_locked=True)).one_or_none() is not None
        late.result(timeout=20)


@pytest.mark.postgres
def test_wishes_of_batches_of_one_flow_and_submits_do_not_stop_each_other(postgres_database: Database) -> None:
    works = [fill(postgres_database, 30)[0] for _ in range(3)]

    def waver(batch_id: str) -> None:
        for _ in range(4):
            pause(postgres_database, batch_id)
            resume(postgres_database, batch_id)

    def end(batch_id: str) -> None:
        cancel(postgres_database, batch_id)
        draw(postgres_database, batch_id, limit=20)

    with ThreadPoolExecutor(4) as pool:
        begun = [
            pool.submit(waver, works[0].id),
            pool.submit(waver, works[1].id),
            pool.submit(end, works[2].id),
            pool.submit(lambda: [submit(postgres_database, lane=Lane.LOW) for _ in range(20)]),
        ]
        for one in begun:
            one.result(60)
    assert states_of(postgres_database, works[2].id) == {JobState.CANCELED: 30}
    assert all(jobs_where(postgres_database, work.id, *FREE) == 30 for work in works[:2])
    assert len(tags(postgres_database)) == 80
