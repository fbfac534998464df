"""Changing a queued job in SQL, on both databases: a claim that comes first wins, and the order of service holds."""

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from sqlalchemy import select, update

from common.db import claims
from common.db.edits import JobEdit, edit_job
from common.db.engine import Database
from common.db.intakes import insert_intakes
from common.db.jobs import cancel_job, find_job, insert_job
from common.db.tables import flows, job_events, jobs, tenants, workers
from common.domain.errors import Conflict
from common.domain.fairness import Lane
from common.domain.job import NewJob
from common.domain.lifecycle import JobState
from common.domain.snapshot import JobSnapshot
from tests.contract.waiting_writers import after_commit_of
from tests.making import claim, enlist, make_job, submit


def edit(database: Database, job: NewJob, lane: Lane | None = None, tenant_id: str = "default", **notes: Any) -> None:
    with database.write() as connection:
        edit_job(connection, tenant_id, job.id, JobEdit(lane, notes))


def look(database: Database, job: NewJob) -> JobSnapshot:
    with database.read() as connection:
        found = find_job(connection, job.tenant_id, job.id)
    assert found is not None
    return found


def row(database: Database, job: NewJob) -> Any:
    with database.read() as connection:
        return connection.execute(select(jobs).where(jobs.c.id == job.id)).one()


def finish_tags(database: Database) -> dict[str, float]:
    with database.read() as connection:
        return {row.lane: row.finish for row in connection.execute(select(flows))}


def test_an_edit_writes_what_it_is_given_one_version_and_one_event(database: Database) -> None:
    job = submit(database, tags=("old",), metadata={"k": "v"})
    edit(database, job, Lane.HIGH, tags=["new"])
    found = look(database, job)
    assert (found.lane, found.tags, found.metadata, found.version) == ("high", ["new"], {"k": "v"}, 2)
    with database.read() as connection:
        query = select(job_events.c.kind, job_events.c.payload).where(job_events.c.version == 2)
        told = connection.execute(query.where(job_events.c.job_id == job.id)).one()
    assert tuple(told) == ("job.edited", {"state": "queued", "move": "edit", "attempt": 0, "error": None})


def test_another_lane_stands_where_a_job_submitted_now_would_stand(database: Database) -> None:
    moved = [submit(database), submit(database)][1]
    submit(database, lane=Lane.HIGH, cost=16.0)
    edit(database, moved, Lane.HIGH)
    fresh = submit(database, lane=Lane.HIGH)
    assert row(database, moved).vtime == pytest.approx(16.0 / 8)
    assert row(database, fresh).vtime == pytest.approx(17.0 / 8)


def test_a_lane_that_was_idle_gives_no_place_before_what_is_served(database: Database) -> None:
    job = submit(database)
    enlist(database)
    with database.write() as connection:
        connection.execute(update(workers).values(served_vtime=50.0))
    edit(database, job, Lane.HIGH)
    assert row(database, job).vtime == pytest.approx(50.0)


def test_its_own_lane_leaves_a_job_in_its_place(database: Database) -> None:
    job = [submit(database), submit(database)][1]
    before, tags = row(database, job), finish_tags(database)
    edit(database, job, Lane.NORMAL)
    after = row(database, job)
    assert (after.vtime, after.version, finish_tags(database)) == (before.vtime, 2, tags)


def test_a_job_held_for_its_image_stays_held(database: Database) -> None:
    job = make_job()
    with database.write() as connection:
        insert_job(connection, job)
        insert_intakes(connection, job.id, "default", {"image": "https://pictures.example/cat.png"})
    edit(database, job, Lane.LOW, tags=["new"])
    assert (row(database, job).held, look(database, job).tags) == ("intake", ["new"])
    assert claim(database, enlist(database)) == []


def test_a_foreign_or_an_ended_job_is_not_changed(database: Database) -> None:
    with database.write() as connection:
        connection.execute(tenants.insert().values(id="other", name="Other"))
    foreign, ended = submit(database, tenant_id="other"), submit(database)
    with database.write() as connection:
        cancel_job(connection, "default", ended.id)
    for job in (foreign, ended):
        before = row(database, job)
        with pytest.raises(Conflict):
            edit(database, job, Lane.HIGH, tags=["new"])
        assert row(database, job) == before
    assert "high" not in finish_tags(database)


def test_a_claim_that_comes_between_wins_and_the_edit_leaves_no_trace(database: Database) -> None:
    job, worker = submit(database), enlist(database)

    def take(connection: Any) -> None:
        wishes = {"device": "cpu", "pool": "default", "limit": 1, "lease_seconds": 30.0, "alone": True}
        assert claims.claim(connection, worker_id=worker, **wishes)

    with after_commit_of(database, take, lambda: edit(database, job, Lane.HIGH, tags=["new"])) as late:
        assert isinstance(late.exception(timeout=20), Conflict)
    found = look(database, job)
    assert (found.state, found.lane, found.tags, found.version) == (JobState.RUNNING, "normal", [], 2)
    assert "high" not in finish_tags(database)


def test_a_cancel_that_comes_between_wins(database: Database) -> None:
    job = submit(database)

    def end(connection: Any) -> None:
        cancel_job(connection, "default", job.id)

    with after_commit_of(database, end, lambda: edit(database, job, Lane.HIGH)) as late:
        assert isinstance(late.exception(timeout=20), Conflict)
    assert look(database, job).state is JobState.CANCELED


def test_edits_at_once_all_count_and_the_last_one_stands(database: Database) -> None:
    job = submit(database)

    def change(number: int) -> None:
        lane = (Lane.HIGH, Lane.LOW)[number % 2]
        database.transact(lambda c: edit_job(c, "default", job.id, JobEdit(lane, {"tags": [str(lane)]})))

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(change, range(12)))
    found = look(database, job)
    assert (found.version, found.tags) == (13, [found.lane])


def test_edits_and_claims_at_once_move_every_job_once(database: Database) -> None:
    made = [submit(database) for _ in range(30)]
    refused: list[str] = []
    taken: list[str] = []

    def work(worker_id: str) -> None:
        while not all(row(database, job).state != JobState.QUEUED for job in made):
            taken.extend(got.id for got in claim(database, worker_id, limit=2))

    def change() -> None:
        for job in reversed(made):
            try:
                database.transact(lambda c, job=job: edit_job(c, "default", job.id, JobEdit(Lane.HIGH)))  # type: ignore[misc]
            except Conflict:
                refused.append(job.id)

    threads = [threading.Thread(target=work, args=(enlist(database),)) for _ in range(2)]
    threads.append(threading.Thread(target=change))
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(taken) == sorted(job.id for job in made)
    for job in made:
        found = look(database, job)
        assert (found.lane, found.version) == (("normal", 2) if job.id in refused else ("high", 3))
