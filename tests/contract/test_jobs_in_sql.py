"""What the SQL promises, on both databases: one claim each, fenced writes, one event per transition."""

import pytest
from sqlalchemy import func, select, update
from sqlalchemy.exc import IntegrityError

from common.db import claims, idempotency, reports, rescue
from common.db.engine import Database
from common.db.jobs import cancel_job, find_job, list_jobs
from common.db.tables import attempts, images, job_events, job_requests, jobs, tenants, workers
from common.db.types import after_now
from common.domain.errors import Conflict
from common.domain.job import Progress
from common.domain.lifecycle import JobState
from common.domain.retry import TryAgain
from common.domain.snapshot import JobSnapshot
from tests.making import claim, enlist, make_image, submit


def look(database: Database, job_id: str) -> JobSnapshot:
    with database.read() as connection:
        found = find_job(connection, "default", job_id)
    assert found is not None
    return found


def kinds(database: Database, job_id: str) -> list[str]:
    query = select(job_events.c.kind).where(job_events.c.job_id == job_id).order_by(job_events.c.version)
    with database.read() as connection:
        return list(connection.execute(query).scalars())


def column(database: Database, job_id: str, name: str) -> object:
    with database.read() as connection:
        return connection.execute(select(jobs.c[name]).where(jobs.c.id == job_id)).scalar_one()


def expire_leases(database: Database) -> None:
    with database.write() as connection:
        connection.execute(update(jobs).where(jobs.c.state == "running").values(lease_until=after_now(-1)))


def sweep(database: Database) -> list[str]:
    with database.write() as connection:
        return rescue.rescue_expired(connection, 0.0).ids


def test_a_job_goes_from_submit_to_success_with_one_event_per_version(database: Database) -> None:
    job = submit(database)
    (claimed,) = claim(database, enlist(database))
    with database.write() as connection:
        assert claims.join(connection, job.id, claimed.fence, "cpu")
        assert claims.finish(connection, claimed, [make_image(claimed)], {"queue_ms": 1})
    found = look(database, job.id)
    assert (found.state, found.attempt, found.version) == (JobState.SUCCEEDED, 1, 4)
    assert kinds(database, job.id) == ["job.queued", "job.claimed", "job.started", "job.succeeded"]
    assert [image.seed for image in found.images] == [42]
    assert found.finished_at is not None
    assert found.expires_at is not None
    assert (found.expires_at - found.finished_at).total_seconds() == pytest.approx(3600, abs=1)


def test_a_stale_fence_writes_nothing(database: Database) -> None:
    submit(database)
    (old,) = claim(database, enlist(database))
    expire_leases(database)
    assert sweep(database) == [old.id]
    (new,) = claim(database, enlist(database))
    with database.write() as connection:
        assert not claims.join(connection, old.id, old.fence, "cpu")
        assert not claims.finish(connection, old, [make_image(old)], {})
        assert not claims.fail(connection, old.id, old.fence, {"code": "internal"})
        assert not claims.hand_back(connection, old.id, old.fence, TryAgain())
        assert not claims.cancel_running(connection, old.id, old.fence)
        assert claims.finish(connection, new, [make_image(new)], {})
        assert connection.execute(select(func.count()).select_from(images)).scalar_one() == 1
    assert new.fence == old.fence + 1


def test_the_first_rescue_runs_at_once_and_the_second_is_delayed(database: Database) -> None:
    job = submit(database)
    for expected in (None, "delayed"):
        claim(database, enlist(database))
        expire_leases(database)
        sweep(database)
        assert column(database, job.id, "held") == expected
    with database.write() as connection:
        connection.execute(update(jobs).values(run_after=after_now(-1)))
        assert rescue.release_delayed(connection) == ["default"]
    assert len(claim(database, enlist(database))) == 1


def test_a_job_fails_when_its_workers_were_lost_as_often_as_it_may_be_tried(database: Database) -> None:
    job = submit(database, max_tries=1)
    claim(database, enlist(database))
    expire_leases(database)
    sweep(database)
    found = look(database, job.id)
    assert found.state is JobState.FAILED
    assert found.error is not None
    assert found.error["code"] == "worker_lost"


def test_a_job_that_crashes_its_worker_alone_twice_is_poisoned_but_one_in_company_is_not(database: Database) -> None:
    first, second = submit(database, max_tries=9), submit(database, max_tries=9)
    for _ in range(2):
        for got in claim(database, enlist(database)):
            with database.write() as connection:
                claims.join(connection, got.id, got.fence, "cpu")
        expire_leases(database)
        sweep(database)
        with database.write() as connection:
            connection.execute(update(jobs).where(jobs.c.state == "queued").values(held=None, run_after=None))
    # The crash in company counted against neither; then the first ran alone and crashed once.
    assert look(database, first.id).state is JobState.QUEUED
    assert column(database, first.id, "solo_crashes") == 1
    assert column(database, second.id, "solo_crashes") == 0
    claim_and_crash(database)
    assert look(database, first.id).error == look(database, first.id).error
    assert (look(database, first.id).error or {}).get("code") == "poisoned"
    assert look(database, second.id).state is JobState.QUEUED


def claim_and_crash(database: Database) -> None:
    (got,) = claim(database, enlist(database))
    with database.write() as connection:
        claims.join(connection, got.id, got.fence, "cpu")
    expire_leases(database)
    sweep(database)


def test_what_was_claimed_together_is_separated_after_a_loss_even_if_no_join_was_written(database: Database) -> None:
    submit(database), submit(database)
    assert len(claim(database, enlist(database))) == 2
    expire_leases(database)
    sweep(database)
    assert len(claim(database, enlist(database))) == 1


def test_joining_twice_counts_once(database: Database) -> None:
    job = submit(database)
    (got,) = claim(database, enlist(database))
    with database.write() as connection:
        assert claims.join(connection, job.id, got.fence, "cpu")
        assert claims.join(connection, job.id, got.fence, "cpu")
    assert look(database, job.id).attempt == 1
    assert kinds(database, job.id).count("job.started") == 1


def test_a_job_written_by_a_newer_release_is_run_without_what_we_do_not_know(database: Database) -> None:
    job = submit(database)
    set_params(database, job.id, job.params.as_dict() | {"sparkle": 1})
    assert [got.params for got in claim(database, enlist(database))] == [job.params]


def test_a_job_that_cannot_be_read_goes_back_and_stops_nobody(database: Database) -> None:
    odd, plain = submit(database), submit(database, params={"width": 128})
    set_params(database, odd.id, {"task": "sing"})
    worker = enlist(database)
    assert claim(database, worker) == []
    assert [got.id for got in claim(database, worker)] == [plain.id]
    assert (column(database, odd.id, "held"), column(database, odd.id, "tries")) == ("delayed", 0)


def set_params(database: Database, job_id: str, params: dict[str, object]) -> None:
    with database.write() as connection:
        connection.execute(update(job_requests).where(job_requests.c.job_id == job_id).values(params=params))


def test_a_worker_that_was_forgotten_still_claims(database: Database) -> None:
    submit(database)
    worker = enlist(database)
    with database.write() as connection:
        connection.execute(workers.delete())
    assert len(claim(database, worker)) == 1


def test_a_release_gives_the_try_back_and_a_retry_does_not(database: Database) -> None:
    job = submit(database)
    for decision, tries in ((TryAgain(refund=True), 0), (TryAgain(), 1)):
        (got,) = claim(database, enlist(database))
        with database.write() as connection:
            assert claims.hand_back(connection, job.id, got.fence, decision)
        assert column(database, job.id, "tries") == tries
    assert column(database, job.id, "fence") == 2


def test_a_queued_job_is_canceled_at_once_and_so_is_one_that_has_not_joined(database: Database) -> None:
    queued, preparing = submit(database), submit(database, params={"width": 128})
    claim(database, enlist(database))
    with database.write() as connection:
        cancel_job(connection, "default", queued.id)
        cancel_job(connection, "default", preparing.id)
    assert look(database, queued.id).state is JobState.CANCELED
    assert look(database, preparing.id).state is JobState.CANCELED


def test_a_running_job_gets_a_wish_and_meets_it_on_whatever_way_it_leaves(database: Database) -> None:
    for leave in ("cancel", "release", "rescue"):
        job = submit(database)
        (got,) = claim(database, enlist(database))
        with database.write() as connection:
            claims.join(connection, job.id, got.fence, "cpu")
            cancel_job(connection, "default", job.id)
        assert look(database, job.id).state is JobState.RUNNING
        assert look(database, job.id).cancel_requested
        if leave == "rescue":
            expire_leases(database)
            sweep(database)
        else:
            with database.write() as connection:
                if leave == "cancel":
                    assert claims.cancel_running(connection, job.id, got.fence)
                else:
                    assert claims.hand_back(connection, job.id, got.fence, TryAgain(refund=True))
        assert look(database, job.id).state is JobState.CANCELED
        assert kinds(database, job.id)[-1] == "job.canceled"


def test_a_passed_deadline_ends_a_queued_job_and_one_that_comes_back(database: Database) -> None:
    queued = submit(database, deadline_seconds=-1)
    assert claim(database, enlist(database)) == []
    with database.write() as connection:
        assert rescue.end_queued(connection) == 1
    running = submit(database)
    (got,) = claim(database, enlist(database))
    with database.write() as connection:
        connection.execute(update(jobs).where(jobs.c.id == running.id).values(deadline_at=after_now(-1)))
        claims.hand_back(connection, running.id, got.fence, TryAgain(refund=True))
    for job in (queued, running):
        error = look(database, job.id).error
        assert error is not None
        assert error["code"] == "deadline_exceeded"


def test_a_renewal_answers_for_what_is_still_held(database: Database) -> None:
    kept, lost = submit(database), submit(database)
    worker = enlist(database)
    both = claim(database, worker)
    with database.write() as connection:
        claims.fail(connection, lost.id, both[1].fence, {"code": "internal"})
        answer = claims.renew(connection, worker, [kept.id, lost.id], 30)
        assert [held.job_id for held in answer] == [kept.id]
        assert claims.look_at_held(connection, worker) == answer == [claims.Held(kept.id, 1, False, False)]


def test_a_renewal_tells_the_wish_and_the_passed_deadline(database: Database) -> None:
    job = submit(database)
    worker = enlist(database)
    (got,) = claim(database, worker)
    with database.write() as connection:
        claims.join(connection, job.id, got.fence, "cpu")
        cancel_job(connection, "default", job.id)
        connection.execute(update(jobs).values(deadline_at=after_now(-1)))
        assert claims.renew(connection, worker, [job.id], 30) == [claims.Held(job.id, 1, True, True)]


def test_progress_of_an_older_attempt_changes_nothing(database: Database) -> None:
    job = submit(database)
    (got,) = claim(database, enlist(database))
    with database.write() as connection:
        claims.join(connection, job.id, got.fence, "cpu")
        reports.report_progress(connection, "default", job.id, got.fence, 1, Progress("denoising", 3, 4))
        reports.report_progress(connection, "default", job.id, got.fence - 1, 2, Progress("denoising", 1, 4))
    assert look(database, job.id).progress == Progress("denoising", 3, 4)


def test_a_tenant_sees_its_own_jobs_only(database: Database) -> None:
    with database.write() as connection:
        connection.execute(tenants.insert().values(id="other", name="Other"))
    mine, theirs = submit(database), submit(database, tenant_id="other")
    with database.write() as connection:
        assert find_job(connection, "default", theirs.id) is None
        cancel_job(connection, "default", theirs.id)
        listed = list_jobs(connection, "default", limit=10, after=None, filters={})
        assert [job.id for job in listed] == [mine.id]
        assert find_job(connection, "other", theirs.id) is not None
    assert column(database, theirs.id, "state") == "queued"


def test_the_tables_themselves_refuse_an_impossible_row(database: Database) -> None:
    job = submit(database)
    for wrong in ({"state": "running"}, {"state": "succeeded"}, {"state": "lost"}, {"tries": 1}):
        with pytest.raises(IntegrityError), database.write() as connection:
            connection.execute(update(jobs).where(jobs.c.id == job.id).values(**wrong))


def test_every_attempt_leaves_a_row_that_says_how_it_ended(database: Database) -> None:
    job = submit(database)
    (got,) = claim(database, enlist(database))
    with database.write() as connection:
        claims.hand_back(connection, job.id, got.fence, TryAgain(), "store_failed")
    (again,) = claim(database, enlist(database))
    with database.write() as connection:
        claims.finish(connection, again, [make_image(again)], {})
        rows = connection.execute(select(attempts.c.outcome, attempts.c.error_code).order_by(attempts.c.fence)).all()
    assert [tuple(row) for row in rows] == [("retried", "store_failed"), ("succeeded", None)]


def test_an_idempotency_key_is_held_by_the_first_and_remembered_for_the_second(database: Database) -> None:
    with database.write() as connection:
        assert idempotency.remember(connection, "default", "key", "print", "job_1") is None
    with database.write() as connection:
        remembered = idempotency.remember(connection, "default", "key", "other", "job_2")
        assert remembered == idempotency.Remembered("print", "job_1")


@pytest.mark.postgres
def test_a_second_request_with_a_key_that_is_being_written_is_told_so(postgres_database: Database) -> None:
    with postgres_database.write() as first:
        idempotency.remember(first, "default", "key", "print", "job_1")
        with pytest.raises(Conflict) as caught, postgres_database.write() as second:
            idempotency.remember(second, "default", "key", "print", "job_2")
    assert caught.value.code == "idempotency_in_flight"
