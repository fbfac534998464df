"""What couriers do with batches in SQL, on both databases: leases, cursors, chunks and ends."""

import itertools
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from sqlalchemy import func, select, update

from common.db import batch_work as sql
from common.db import claims
from common.db.batch_wishes import cancel_batch, cancel_some, pause_batch, resume_batch
from common.db.engine import Database
from common.db.intakes import take as take_intake
from common.db.tables import (
    batch_items,
    batches,
    deliveries,
    flows,
    intakes,
    job_events,
    jobs,
    object_refs,
    objects,
    webhooks,
)
from common.domain.batch import BatchState
from common.domain.fairness import Lane
from common.domain.job import InputRef
from common.domain.lifecycle import Hold, JobState
from common.ids import new_id
from tests.contract.batch_making import (
    LEASE,
    even,
    fill,
    hand_in,
    items_of,
    jobs_where,
    let_go,
    look,
    make_items,
    note_drawn,
    put,
    start,
    states_of,
    take,
)
from tests.contract.waiting_writers import after_commit_of
from tests.making import claim, enlist, make_image, make_job, submit

PICTURE = InputRef("inputs/default/one.png", "ab" * 32, 1000, 64, 64)
ERROR = {"code": "unknown_model", "pointer": "/model", "detail": "there is no such model"}


def settle(database: Database, work: sql.BatchWork) -> BatchState | None:
    with database.write() as connection:
        return sql.settle_batch(connection, work)


def succeed(database: Database, worker: str, limit: int = 8) -> int:
    held = claim(database, worker, limit=limit, company="step")
    for job in held:
        with database.write() as connection:
            assert claims.finish(connection, job, [make_image(job)], {})
    return len(held)


def test_the_longest_due_is_taken_once_and_with_a_fresh_name(database: Database) -> None:
    first, second = hand_in(database, 3), hand_in(database, 1)
    works = [take(database), take(database)]
    assert [work.id for work in works if work] == [first, second]
    assert take(database) is None
    work = works[0]
    assert work is not None
    assert (work.state, work.total, work.validated, work.inserted) == (BatchState.VALIDATING, 3, 0, 0)
    assert (work.lane, work.manifest_key, work.cancel_requested) == (Lane.LOW, "manifests/one", False)
    with database.write() as connection:
        assert sql.put_back(connection, work, 0)
    again = take(database)
    assert again is not None
    assert again.id == first
    assert again.holder != work.holder


def test_what_is_put_back_comes_when_it_is_due(database: Database) -> None:
    hand_in(database, 1)
    work = take(database)
    assert work is not None
    with database.write() as connection:
        assert sql.put_back(connection, work, 60)
        assert not sql.put_back(connection, work, 0)
    assert take(database) is None


def test_a_lost_courier_s_batch_goes_on_and_its_writes_are_refused(database: Database) -> None:
    hand_in(database, 4)
    lost = take(database, lease_seconds=-1)
    assert lost is not None
    with database.write() as connection:
        assert sql.note_validated(connection, lost, 2, [{"line": 1, **ERROR}], 1, -1)
    work = take(database)
    assert work is not None
    assert work.id == lost.id
    assert (work.validated, work.errors, work.error_count) == (2, [{"line": 1, **ERROR}], 1)
    with database.write() as connection:
        assert not sql.renew(connection, lost, LEASE)
        assert sql.look_again(connection, lost, LEASE) is None
        assert not sql.note_validated(connection, lost, 4, [], 0, LEASE)
        assert not sql.accept(connection, lost)
        assert not sql.reject(connection, lost, [], 0)
        assert not sql.note_retagged(connection, lost)
        assert not sql.put_back(connection, lost, None)
        assert sql.insert_items(connection, lost, make_items(0, 1), LEASE) is None
        assert sql.settle_batch(connection, lost) is None
        assert sql.renew(connection, work, LEASE)
    assert look(database, work.id).validated == 2


def test_a_batch_whose_lines_are_right_runs(database: Database) -> None:
    work = start(database, 2)
    found = look(database, work.id)
    assert (found.state, found.version, found.validated) == (BatchState.RUNNING, 2, 2)
    assert found.started_at is not None
    assert found.finished_at is None
    with database.write() as connection:
        assert not sql.accept(connection, work)
        assert not sql.reject(connection, work, [], 0)
        assert not sql.note_validated(connection, work, 0, [], 0, LEASE)


def test_a_rejected_batch_tells_its_errors_and_is_never_tended_again(database: Database) -> None:
    hand_in(database, 300)
    work = take(database)
    assert work is not None
    errors = [{"line": line, **ERROR} for line in range(100)]
    with database.write() as connection:
        assert sql.reject(connection, work, errors, 250)
    found = look(database, work.id)
    assert (found.state, found.errors, found.error_count) == (BatchState.REJECTED, errors, 250)
    assert (found.counts.failed, found.counts.queued) == (300, 0)
    assert found.finished_at is not None
    assert take(database) is None


def test_a_chunk_brings_items_jobs_tags_events_references_and_intakes(database: Database) -> None:
    work = start(database, 4)
    items = [
        sql.NewItem(0, "a", make_job(lane=Lane.LOW, cost=2.0, scale=3.0, inputs={"image": PICTURE})),
        sql.NewItem(1, "b", make_job(lane=Lane.LOW, cost=1.0), urls={"image": "https://pictures.example/cat.png"}),
        sql.NewItem(2, "c", error=ERROR),
        sql.NewItem(3, None, make_job(lane=Lane.LOW, pool="other", inputs={"image": PICTURE})),
    ]
    assert put(database, work, items) == {"default": 1, "other": 1}
    rows = items_of(database, work.id)
    assert [row.custom_id for row in rows] == ["a", "b", "c", None]
    assert [row.job_id for row in rows] == [item.job.id if item.job else None for item in items]
    assert [row.error for row in rows] == [None, None, ERROR, None]
    with database.read() as connection:
        tagged = select(jobs.c.vtime, jobs.c.vfinish, jobs.c.held).where(jobs.c.batch_id == work.id)
        of_default = connection.execute(tagged.where(jobs.c.pool == "default").order_by(jobs.c.vtime)).all()
        assert [tuple(row) for row in of_default] == [(0.0, 6.0, None), (6.0, 7.0, Hold.INTAKE)]
        ends = connection.execute(select(flows.c.pool, flows.c.finish).order_by(flows.c.pool)).all()
        assert [tuple(row) for row in ends] == [("default", 7.0), ("other", 1.0)]
        events = connection.execute(select(job_events.c.version, job_events.c.kind)).all()
        assert [tuple(row) for row in events] == [(1, "job.queued")] * 3
        assert connection.execute(select(func.count()).select_from(object_refs)).scalar_one() == 2
        assert connection.execute(select(objects.c.state, objects.c.width)).one() == ("live", 64)
        assert connection.execute(select(intakes.c.url)).scalar_one() == "https://pictures.example/cat.png"
    with database.write() as connection:
        assert take_intake(connection, new_id("wrk"), LEASE) is not None
    found = look(database, work.id)
    assert (found.inserted, found.counts.failed, found.counts.queued) == (4, 1, 3)


def test_an_object_that_was_about_to_go_stays_for_a_job_of_a_batch(database: Database) -> None:
    work = start(database, 2)
    put(database, work, make_items(0, 1, inputs={"image": PICTURE}))
    with database.write() as connection:
        connection.execute(update(objects).values({"state": "deleting"}))
    put(database, work, make_items(1, 1, inputs={"image": PICTURE}))
    with database.read() as connection:
        assert connection.execute(select(objects.c.state)).scalar_one() == "live"


def test_a_chunk_that_is_not_at_the_cursor_writes_nothing(database: Database) -> None:
    work = start(database, 4)
    items = make_items(0, 2)
    assert put(database, work, items) == {"default": 2}
    assert put(database, work, items) is None
    assert put(database, work, make_items(3, 1)) is None
    assert put(database, work, []) is None
    assert put(database, work, make_items(2, 2)) == {"default": 2}
    assert (jobs_where(database, work.id), len(items_of(database, work.id))) == (4, 4)


def test_a_chunk_that_fails_leaves_nothing_behind(database: Database) -> None:
    work = start(database, 2)
    one, other = make_items(0, 2)
    assert other.job is not None
    doubled = sql.NewItem(1, one.custom_id, other.job)
    with pytest.raises(Exception, match=r"(?i)unique"):
        put(database, work, [one, doubled])
    assert (jobs_where(database, work.id), items_of(database, work.id)) == (0, [])
    assert look(database, work.id).inserted == 0
    assert put(database, work, [one, other]) == {"default": 2}


def test_the_jobs_of_chunks_stand_in_the_order_of_the_lines(database: Database) -> None:
    work = start(database, 6)
    put(database, work, make_items(0, 3))
    submit(database, lane=Lane.LOW)
    put(database, work, make_items(3, 3))
    query = select(batch_items.c.line).join(jobs, jobs.c.id == batch_items.c.job_id)
    with database.read() as connection:
        lines = connection.execute(query.order_by(jobs.c.vtime, jobs.c.id)).scalars().all()
        tags = connection.execute(select(jobs.c.vtime, jobs.c.vfinish).order_by(jobs.c.vtime)).all()
    assert list(lines) == list(range(6))
    assert all(sooner.vfinish == later.vtime for sooner, later in itertools.pairwise(tags))


def test_while_it_is_paused_jobs_come_held_and_after_the_wish_to_cancel_lines_without_jobs(database: Database) -> None:
    work = start(database, 4)
    with database.write() as connection:
        assert pause_batch(connection, "default", work.id)
    assert put(database, work, make_items(0, 2)) == {}
    assert jobs_where(database, work.id, jobs.c.held == Hold.PAUSED) == 2
    with database.write() as connection:
        assert cancel_batch(connection, "default", work.id)
    assert put(database, work, make_items(2, 2)) == {}
    assert states_of(database, work.id) == {JobState.CANCELED: 2}
    assert [row.job_id is None for row in items_of(database, work.id)] == [False, False, True, True]
    note_drawn(database, work)
    assert settle(database, work) is BatchState.CANCELED
    assert look(database, work.id).counts.canceled == 4


def test_it_is_over_when_all_lines_stand_and_no_job_can_change(database: Database) -> None:
    work = start(database, 3)
    put(database, work, make_items(0, 1))
    worker = enlist(database)
    assert succeed(database, worker) == 1
    assert settle(database, work) is None  # two lines are still to come
    put(database, work, [*make_items(1, 1), sql.NewItem(2, "c", error=ERROR)])
    assert settle(database, work) is None
    assert succeed(database, worker) == 1
    assert settle(database, work) is BatchState.COMPLETED
    found = look(database, work.id)
    assert (found.version, found.counts.succeeded, found.counts.failed) == (3, 2, 1)
    assert found.finished_at is not None
    assert settle(database, work) is None
    with database.read() as connection:
        row = connection.execute(select(batches.c.tend_at, batches.c.worker_id)).one()
    assert tuple(row) == (None, None)


def test_a_paused_batch_is_over_only_when_it_was_resumed(database: Database) -> None:
    work, _ = fill(database, 1)
    (held,) = claim(database, enlist(database))
    with database.write() as connection:
        pause_batch(connection, "default", work.id)
        assert claims.finish(connection, held, [make_image(held)], {})
        assert sql.settle_batch(connection, work) is None
        assert resume_batch(connection, "default", work.id, even) is not None
        assert sql.settle_batch(connection, work) is BatchState.COMPLETED


def test_what_is_noted_of_retagging_is_seen_at_the_next_look(database: Database) -> None:
    work = start(database, 1)
    with database.write() as connection:
        seen = sql.look_again(connection, work, LEASE)
        assert seen is not None
        assert sql.note_retagged(connection, seen)
        seen = sql.look_again(connection, work, LEASE)
    assert seen is not None
    assert seen.is_retagged
    assert seen.state is BatchState.RUNNING
    assert seen.holder == work.holder


@pytest.mark.parametrize("later", [cancel_batch, pause_batch])
def test_a_stale_turn_does_not_say_that_a_later_wish_was_followed(database: Database, later: Any) -> None:
    work, _ = fill(database, 1)
    with database.write() as connection:
        assert pause_batch(connection, "default", work.id)
        stale = sql.look_again(connection, work, LEASE)
        assert resume_batch(connection, "default", work.id, even) is not None
        assert later(connection, "default", work.id)
        fresh = sql.look_again(connection, work, LEASE)
        assert stale is not None
        assert fresh is not None
        assert not sql.note_retagged(connection, stale)
        assert sql.note_retagged(connection, fresh)


def test_a_cancel_that_a_turn_did_not_see_ends_the_batch_only_when_it_was_followed(database: Database) -> None:
    work, _ = fill(database, 1)
    with database.write() as connection:
        seen = sql.look_again(connection, work, LEASE)
        assert seen is not None
        assert cancel_batch(connection, "default", work.id)
        assert not sql.note_retagged(connection, seen)
        assert sql.settle_batch(connection, work) is None
    note_drawn(database, work)
    assert settle(database, work) is BatchState.CANCELED


@pytest.mark.postgres
def test_two_couriers_take_two_batches(postgres_database: Database) -> None:
    ids = {hand_in(postgres_database, 1) for _ in range(8)}
    with ThreadPoolExecutor(4) as pool:
        taken = [work.id for work in pool.map(lambda _: take(postgres_database), range(12)) if work]
    assert len(taken) == len(set(taken))
    while work := take(postgres_database):  # one that found the row of another locked came back with nothing
        taken.append(work.id)
    assert sorted(taken) == sorted(ids)


@pytest.mark.postgres
@pytest.mark.parametrize(("wish", "expected"), [(pause_batch, {}), (cancel_batch, {})])
def test_a_chunk_that_meets_a_wish_sees_it(postgres_database: Database, wish: Any, expected: dict[str, int]) -> None:
    work = start(postgres_database, 4)
    put(postgres_database, work, make_items(0, 2))
    with after_commit_of(
        postgres_database,
        lambda connection: wish(connection, "default", work.id),
        lambda: put(postgres_database, work, make_items(2, 2)),
    ) as chunk:
        assert chunk.result(timeout=20) == expected
    assert jobs_where(postgres_database, work.id, jobs.c.state == JobState.QUEUED, jobs.c.held.is_(None)) == 0
    assert len(items_of(postgres_database, work.id)) == 4


@pytest.mark.postgres
@pytest.mark.parametrize("wish", [pause_batch, cancel_batch])
def test_a_wish_that_meets_a_chunk_is_heard_by_its_jobs_too(postgres_database: Database, wish: Any) -> None:
    work = start(postgres_database, 2)
    with after_commit_of(
        postgres_database,
        lambda connection: sql.insert_items(connection, work, make_items(0, 2), LEASE),
        lambda: postgres_database.transact(lambda connection: wish(connection, "default", work.id)),
    ) as answer:
        assert answer.result(timeout=20)
    assert jobs_where(postgres_database, work.id, jobs.c.state == JobState.QUEUED, jobs.c.held.is_(None)) == 0


@pytest.mark.postgres
def test_cancel_claims_and_ends_at_once_lose_no_job(postgres_database: Database) -> None:
    work, _ = fill(postgres_database, 40)
    workers = [enlist(postgres_database) for _ in range(2)]

    def serve(worker: str) -> None:
        for _ in range(10):
            for job in claim(postgres_database, worker, limit=2, company="step"):
                with postgres_database.write() as connection:
                    _ = claims.join(connection, job.id, job.fence, "cpu") and claims.finish(
                        connection, job, [make_image(job)], {}
                    )

    def cancel() -> None:
        postgres_database.transact(lambda connection: cancel_batch(connection, "default", work.id))
        while postgres_database.transact(lambda connection: cancel_some(connection, work.id, limit=7)):
            pass

    with ThreadPoolExecutor(3) as pool:
        served = [pool.submit(serve, worker) for worker in workers]
        pool.submit(cancel).result(60)
        for one in served:
            one.result(60)
    counts = look(postgres_database, work.id).counts
    assert counts.queued + counts.running == 0
    assert counts.succeeded + counts.canceled == 40
    note_drawn(postgres_database, work)
    assert settle(postgres_database, work) is BatchState.CANCELED


def test_ends_are_told_to_endpoints(database: Database) -> None:
    row = {"id": new_id("whe"), "tenant_id": "default", "url": "https://a.example/", "host": "a.example"}
    with database.write() as connection:
        connection.execute(
            webhooks.insert().values(row | {"events": ["batch.completed", "batch.canceled"], "secret": b"x"})
        )
    work, _ = fill(database, 1)
    succeed(database, enlist(database))
    assert settle(database, work) is BatchState.COMPLETED
    hand_in(database, 1)
    rejected = take(database)
    assert rejected is not None
    canceled = hand_in(database, 1)
    with database.write() as connection:
        sql.reject(connection, rejected, [{"line": 0, **ERROR}], 1)
        cancel_batch(connection, "default", canceled)
    with database.read() as connection:
        told = connection.execute(select(deliveries.c.subject_id, deliveries.c.version, deliveries.c.kind)).all()
    assert {tuple(row) for row in told} == {
        (work.id, 3, "batch.completed"),
        (rejected.id, 2, "batch.completed"),
        (canceled, 2, "batch.canceled"),
    }


def test_a_batch_let_go_is_due_at_once(database: Database) -> None:
    work = start(database, 1)
    let_go(database, work.id)
    again = take(database)
    assert again is not None
    assert again.state is BatchState.RUNNING
