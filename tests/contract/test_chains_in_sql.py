"""Finished passes, grids, warnings and previews in SQL: fenced, on both databases."""

from dataclasses import replace

from sqlalchemy import select

from common.db import chains, claims, reports
from common.db.engine import Database
from common.db.jobs import find_job, find_preview
from common.db.tables import job_steps, object_refs, objects
from common.domain.job import GRID_INDEX, ClaimedJob, DoneStep, Progress
from common.domain.retry import TryAgain
from tests.making import claim, enlist, make_image, submit


def step(job: ClaimedJob, number: int = 0, sha256: str = "ab" * 32) -> DoneStep:
    return DoneStep(number, f"steps/{job.id}/{job.fence}/{number}", sha256)


def record(database: Database, job: ClaimedJob, done: DoneStep) -> bool:
    with database.write() as connection:
        return chains.record_step(connection, job, done, 3)


def test_a_finished_pass_is_told_to_the_next_attempt_alone(database: Database) -> None:
    submit(database)
    worker = enlist(database)
    (job,) = claim(database, worker)
    assert job.done_steps == ()
    first, second = step(job), step(job, 1)
    assert record(database, job, first)
    assert record(database, job, second)
    with database.write() as connection:
        assert claims.hand_back(connection, job.id, job.fence, TryAgain(refund=True))
    (again,) = claim(database, worker)
    assert again.done_steps == (first, second)


def test_a_pass_of_a_lost_attempt_is_refused(database: Database) -> None:
    submit(database)
    worker = enlist(database)
    (lost,) = claim(database, worker)
    with database.write() as connection:
        claims.hand_back(connection, lost.id, lost.fence, TryAgain())
    (winner,) = claim(database, worker)
    assert not record(database, lost, step(lost))
    assert record(database, winner, step(winner))
    with database.read() as connection:
        assert connection.execute(select(job_steps.c.fence)).scalars().all() == [winner.fence]


def test_a_pass_that_ran_again_is_that_of_the_newer_attempt(database: Database) -> None:
    submit(database)
    worker = enlist(database)
    (job,) = claim(database, worker)
    record(database, job, step(job))
    with database.write() as connection:
        claims.hand_back(connection, job.id, job.fence, TryAgain())
    (again,) = claim(database, worker)
    newer = step(again, sha256="cd" * 32)
    assert record(database, again, newer)
    with database.write() as connection:
        claims.hand_back(connection, again.id, again.fence, TryAgain())
    (last,) = claim(database, worker)
    assert last.done_steps == (newer,)


def test_a_grid_and_warnings_come_with_the_success(database: Database) -> None:
    submit(database, warnings=({"code": "size_adjusted", "pointer": "/width"},))
    (job,) = claim(database, enlist(database))
    grid = replace(make_image(job), index=GRID_INDEX, key="results/grid.webp", content_type="image/webp")
    cut = {"code": "prompt_truncated", "pointer": "/prompt", "detail": "…"}
    with database.write() as connection:
        assert claims.finish(connection, job, [make_image(job)], {}, grid=grid, warnings=[cut])
    with database.read() as connection:
        found = find_job(connection, "default", job.id)
        roles = set(connection.execute(select(object_refs.c.role)).scalars())
        kinds = set(connection.execute(select(objects.c.kind)).scalars())
    assert found is not None
    assert found.grid == replace(grid, seed=0)
    assert [one["code"] for one in found.warnings] == ["size_adjusted", "prompt_truncated"]
    assert [one.index for one in found.images] == [0]
    assert (roles, kinds) == ({"result", "grid"}, {"result"})


def test_a_preview_is_seen_while_its_attempt_runs(database: Database) -> None:
    submit(database)
    (job,) = claim(database, enlist(database))

    def seen(tenant: str = "default") -> bytes | None:
        with database.read() as connection:
            return find_preview(connection, tenant, job.id)

    with database.write() as connection:
        claims.join(connection, job.id, job.fence, "cpu")
        reports.report_progress(connection, "default", job.id, job.fence, 1, Progress("denoising", 1, 4))
        reports.report_preview(connection, job.id, job.fence, b"jpeg")
        reports.report_preview(connection, job.id, job.fence - 1, b"stale")
    assert (seen(), seen("other")) == (b"jpeg", None)
    with database.write() as connection:
        claims.finish(connection, job, [make_image(job)], {})
    assert seen() is None


def test_a_pass_told_twice_is_one(database: Database) -> None:
    """As after a commit whose answer was lost."""
    submit(database)
    (job,) = claim(database, enlist(database))
    assert record(database, job, step(job))
    assert record(database, job, step(job))
    with database.read() as connection:
        assert len(connection.execute(select(job_steps)).all()) == 1


def test_a_new_attempt_does_not_show_the_preview_of_the_one_before(database: Database) -> None:
    submit(database)
    worker = enlist(database)
    (job,) = claim(database, worker)
    with database.write() as connection:
        reports.report_progress(connection, "default", job.id, job.fence, 1, Progress("denoising", 1, 4))
        reports.report_preview(connection, job.id, job.fence, b"old")
        reports.report_progress(connection, "default", job.id, job.fence, 2, Progress("denoising", 2, 4))
    with database.read() as connection:
        assert find_preview(connection, "default", job.id) == b"old"
    with database.write() as connection:
        claims.hand_back(connection, job.id, job.fence, TryAgain())
    (again,) = claim(database, worker)
    with database.write() as connection:
        reports.report_progress(connection, "default", again.id, again.fence, 1, Progress("denoising", 1, 4))
    with database.read() as connection:
        assert find_preview(connection, "default", job.id) is None
