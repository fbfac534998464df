"""Erasing in SQL, on both databases: nothing of the owner is left, whatever the job is doing at that moment."""

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest
from sqlalchemy import select

from common.db import claims, intakes
from common.db.engine import Database
from common.db.erasing import erase_job
from common.db.jobs import find_job, insert_job, list_jobs
from common.db.reports import report_preview, report_progress
from common.db.tables import job_events, jobs, metadata, tenants
from common.db.types import now
from common.domain.errors import JobFailure
from common.domain.job import ClaimedJob, InputRef, NewJob, Progress
from common.domain.lifecycle import JobState
from common.domain.params import PassParams
from common.domain.retry import TryAgain
from common.domain.snapshot import JobSnapshot
from tests.contract.waiting_writers import after_commit_of
from tests.making import PARAMS, claim, enlist, make_image, make_job, submit

SECRET = "my grandmother"
ERROR = JobFailure(f"cannot fetch {SECRET}", code="input_fetch_failed").as_dict()
LATER = PassParams(**{name: getattr(PARAMS, name) for name in PassParams.__dataclass_fields__} | {"prompt": SECRET})
NOTES: dict[str, Any] = {
    "params": {"prompt": SECRET, "negative_prompt": SECRET, "then": (LATER,)},
    "request": {"prompt": SECRET, "image": {"url": SECRET}},
    "tags": (SECRET,),
    "metadata": {SECRET: SECRET},
    "external_id": SECRET,
    "warnings": ({"code": "x", "pointer": "/", "detail": SECRET},),
}


def erase(database: Database, job: NewJob, tenant_id: str = "default") -> bool:
    with database.write() as connection:
        return erase_job(connection, tenant_id, job.id)


def look(database: Database, job: NewJob) -> JobSnapshot:
    with database.read() as connection:
        found = find_job(connection, job.tenant_id, job.id)
    assert found is not None
    return found


def start(database: Database) -> ClaimedJob:
    (got,) = claim(database, enlist(database))
    with database.write() as connection:
        assert claims.join(connection, got.id, got.fence, "cpu")
    return got


def finish(database: Database, got: ClaimedJob) -> bool:
    told = [{"code": "prompt_truncated", "pointer": "/prompt", "detail": SECRET}]
    with database.write() as connection:
        return claims.finish(connection, got, [make_image(got)], {}, warnings=told)


def kinds(database: Database, job: NewJob) -> list[str]:
    query = select(job_events.c.kind).where(job_events.c.job_id == job.id).order_by(job_events.c.version)
    with database.read() as connection:
        return list(connection.execute(query).scalars())


def words(database: Database) -> str:
    """Every row of every table, as text."""
    with database.read() as connection:
        rows = [connection.execute(select(table)).all() for table in metadata.sorted_tables]
    return str(rows)


def may_go(database: Database, job: NewJob) -> bool:
    """Whether the cleaner may take the job's objects now."""
    with database.read() as connection:
        return bool(connection.execute(select(jobs.c.expires_at <= now()).where(jobs.c.id == job.id)).scalar_one())


@pytest.mark.parametrize("state", ["queued", "held", "preparing", "running", "succeeded", "failed"])
def test_nothing_of_the_owner_is_left_in_any_state(database: Database, state: str) -> None:
    job = make_job(**NOTES)
    with database.write() as connection:
        insert_job(connection, job)
        if state == "held":
            intakes.insert_intakes(connection, job.id, "default", {"image": SECRET})
    if state == "preparing":
        claim(database, enlist(database))
    got = start(database) if state in ("running", "succeeded", "failed") else None
    if got and state == "succeeded":
        assert finish(database, got)
    with database.write() as connection:
        if got and state == "failed":
            assert claims.fail(connection, got.id, got.fence, ERROR)
        if got and state == "running":
            report_progress(connection, "default", got.id, got.fence, 1, Progress("denoising", 1, 4))
            report_preview(connection, got.id, got.fence, SECRET.encode())
    assert SECRET in words(database)

    assert erase(database, job)

    assert SECRET not in words(database)
    found = look(database, job)
    ends = {"running": JobState.RUNNING, "succeeded": JobState.SUCCEEDED, "failed": JobState.FAILED}
    assert found.state is ends.get(state, JobState.CANCELED)
    assert (found.erased_at is not None, found.cancel_requested) == (True, state not in ("succeeded", "failed"))
    assert may_go(database, job) is (state != "running")
    blank = {"prompt": "", "negative_prompt": ""}
    assert found.params == replace(job.params, then=(replace(LATER, **blank),), **blank)


def test_the_code_of_an_error_stays(database: Database) -> None:
    job = submit(database)
    got = start(database)
    with database.write() as connection:
        claims.fail(connection, got.id, got.fence, ERROR)
    erase(database, job)
    assert (look(database, job).error or {})["code"] == "input_fetch_failed"


def test_erasing_again_changes_nothing_and_a_foreign_job_is_unknown(database: Database) -> None:
    with database.write() as connection:
        connection.execute(tenants.insert().values(id="other", name="Other"))
    job = submit(database, **NOTES)
    assert not erase(database, job, "other")
    assert look(database, job).erased_at is None
    assert erase(database, job)
    before = look(database, job)
    assert erase(database, job)
    assert look(database, job) == before
    assert kinds(database, job) == ["job.queued", "job.canceled"]
    assert not erase(database, make_job())


def test_lists_leave_erased_jobs_out(database: Database) -> None:
    kept, erased = submit(database), submit(database)
    erase(database, erased)
    with database.read() as connection:
        assert [job.id for job in list_jobs(connection, "default", limit=9, after=None, filters={})] == [kept.id]


@pytest.mark.parametrize("way", ["finish", "fail", "release", "cancel"])
def test_an_attempt_that_runs_on_ends_with_nothing_to_keep(database: Database, way: str) -> None:
    job = submit(database, **NOTES)
    got = start(database)
    erase(database, job)
    with database.write() as connection:
        report_progress(connection, "default", got.id, got.fence, 9, Progress("denoising", 2, 4))
        report_preview(connection, got.id, got.fence, SECRET.encode())
        assert claims.renew(connection, "nobody", [got.id], 30) == []
    if way == "finish":
        assert finish(database, got)
    with database.write() as connection:
        if way == "fail":
            assert claims.fail(connection, got.id, got.fence, {"code": "internal"})
        elif way == "release":
            assert claims.hand_back(connection, got.id, got.fence, TryAgain(refund=True))
        elif way == "cancel":
            assert claims.cancel_running(connection, got.id, got.fence)
    assert look(database, job).state.is_terminal
    assert may_go(database, job)
    assert SECRET not in words(database)


def test_a_commit_of_results_that_waits_for_the_erasure_keeps_nothing(database: Database) -> None:
    job = submit(database, **NOTES)
    got = start(database)
    with after_commit_of(database, lambda c: erase_job(c, "default", job.id), lambda: finish(database, got)) as late:
        assert late.result(timeout=20)
    assert look(database, job).state is JobState.SUCCEEDED
    assert may_go(database, job)
    assert SECRET not in words(database)


def test_an_erasure_that_waits_for_the_commit_of_results_erases_them(database: Database) -> None:
    job = submit(database, **NOTES)
    got = start(database)
    with after_commit_of(
        database, lambda c: claims.finish(c, got, [make_image(got)], {}), lambda: erase(database, job)
    ) as late:
        assert late.result(timeout=20)
    assert (look(database, job).state, look(database, job).cancel_requested) == (JobState.SUCCEEDED, False)
    assert may_go(database, job)
    assert SECRET not in words(database)


def test_erasures_claims_and_commits_at_once_leave_every_job_ended_or_wished_to_end(database: Database) -> None:
    made = [submit(database, **NOTES) for _ in range(24)]
    erased = threading.Event()

    def work(worker_id: str) -> None:
        while not erased.is_set():
            for number, got in enumerate(claim(database, worker_id, limit=2)):
                with database.write() as connection:
                    claims.join(connection, got.id, got.fence, "cpu")
                if number == 0:
                    finish(database, got)

    def end() -> None:
        try:
            for job in reversed(made):
                assert erase(database, job)
        finally:
            erased.set()

    threads = [threading.Thread(target=work, args=(enlist(database),)) for _ in range(3)]
    with ThreadPoolExecutor(1) as client:
        for thread in threads:
            thread.start()
        client.submit(end).result(timeout=60)
        for thread in threads:
            thread.join()
    for job in made:
        found = look(database, job)
        assert found.state.is_terminal or (found.state is JobState.RUNNING and found.cancel_requested)
        assert (len(found.images) == 1) is (found.state is JobState.SUCCEEDED)
    assert SECRET not in words(database)


def test_a_courier_that_brings_the_image_of_an_erased_job_is_told_that_it_is_not_wanted(database: Database) -> None:
    job = make_job(**NOTES)
    with database.write() as connection:
        insert_job(connection, job)
        intakes.insert_intakes(connection, job.id, "default", {"image": SECRET})
        taken = intakes.take(connection, "wrk_a", 60)
    assert taken is not None
    erase(database, job)
    with database.write() as connection:
        assert not intakes.fail(connection, taken, ERROR)
        reference = InputRef("inputs/default/a.png", "a" * 64, 1, 64, 64)
        assert intakes.complete(connection, taken, reference, {}) is None  # type: ignore[arg-type]
    assert SECRET not in words(database)
