"""What is read of a batch's results, on both databases."""

from dataclasses import asdict
from typing import Any

import pytest
from sqlalchemy import insert, update

from common.db.batch_results import ResultLine, line_of, read_results
from common.db.cleaning import clean_jobs
from common.db.engine import Database
from common.db.erasing import erase_job
from common.db.jobs import cancel_job, find_job
from common.db.tables import batch_items, jobs
from common.db.tenants import create_tenant
from common.db.types import after_now
from common.domain.lifecycle import JobState
from common.domain.params import PassParams
from common.ids import new_id
from common.job_document import present_image
from common.result_document import present_line
from tests.making import PARAMS, claim, enlist
from tests.making_batches import WRONG, develop, make_batch, queue_batch

BASE = "https://darkroom.example"


def read(database: Database, batch_id: str, *, after_line: int = -1, limit: int = 1000) -> list[ResultLine]:
    with database.read() as connection:
        return read_results(connection, "default", batch_id, after_line=after_line, limit=limit)


def test_every_item_has_the_state_that_it_has_now_in_the_order_of_the_manifest(database: Database) -> None:
    batch_id = queue_batch(database, ["a", None, "b", "c", "d"], total=7)
    worker = enlist(database)
    done = develop(database, worker)
    (running,) = claim(database, worker, limit=1)
    lines = read(database, batch_id)
    assert [line.line for line in lines] == [0, 1, 2, 3, 4]
    assert [line.custom_id for line in lines] == ["a", None, "b", "c", "d"]
    assert [line.state for line in lines] == ["succeeded", "failed", "running", "queued", "queued"]
    assert [line.job_id for line in lines[:3]] == [done, None, running.id]
    assert lines[1].error == WRONG
    assert [len(line.images) for line in lines] == [1, 0, 0, 0, 0]


def test_a_line_says_of_its_images_what_the_job_does(database: Database) -> None:
    then = tuple(a_pass(refines=refines) for refines in (False, True, False))
    batches = [
        queue_batch(database, ["one"]),
        queue_batch(database, ["last"], params={"num_images": 2, "then": then}),
        queue_batch(database, ["all"], params={"num_images": 2, "then": then, "keep": "all"}),
    ]
    worker = enlist(database)
    counts = [1, 2, 6]
    made = [develop(database, worker, images=count) for count in counts]
    for batch_id, job_id, count in zip(batches, made, counts, strict=True):
        (line,) = read(database, batch_id)
        with database.read() as connection:
            job = find_job(connection, "default", job_id)
        assert job is not None
        expected = [present_image(job, one, f"{BASE}/v1/jobs/{job_id}") for one in job.images]
        assert len(expected) == count
        assert present_line(line, BASE)["images"] == expected


def a_pass(**changes: Any) -> PassParams:
    return PassParams(**{name: getattr(PARAMS, name) for name in PassParams.__dataclass_fields__} | changes)


def test_pages_go_on_behind_a_line(database: Database) -> None:
    batch_id = queue_batch(database, [f"n{number}" for number in range(7)])
    first = read(database, batch_id, limit=3)
    rest = read(database, batch_id, after_line=first[-1].line, limit=100)
    assert [line.custom_id for line in first + rest] == [f"n{number}" for number in range(7)]
    with database.read() as connection:
        assert line_of(connection, "default", batch_id, "n5") == 5
        assert line_of(connection, "default", batch_id, "x") is None
        assert line_of(connection, "other", batch_id, "n5") is None
        assert read_results(connection, "other", batch_id, after_line=-1, limit=10) == []


def test_a_page_of_many_images_is_read_in_parts(database: Database) -> None:
    batch_id = queue_batch(database, [str(number) for number in range(3)], params={"num_images": 4})
    worker = enlist(database)
    for _ in range(3):
        develop(database, worker, images=4)
    assert [[one.index for one in line.images] for line in read(database, batch_id)] == [[0, 1, 2, 3]] * 3


def test_expired_results_are_left_out_before_and_after_the_cleaner_has_passed(database: Database) -> None:
    batch_id = queue_batch(database, ["a"])
    job_id = develop(database, enlist(database))
    with database.write() as connection:
        connection.execute(update(jobs).where(jobs.c.id == job_id).values(expires_at=after_now(-1)))
    before = read(database, batch_id)
    with database.write() as connection:
        assert clean_jobs(connection) == 1
    for (line,) in (before, read(database, batch_id)):
        assert (line.state, line.images, line.error) == (JobState.SUCCEEDED, [], None)


def test_an_erased_job_leaves_neither_images_nor_words(database: Database) -> None:
    batch_id = queue_batch(database, ["somebody", "else"])
    job_id = develop(database, enlist(database))
    with database.write() as connection:
        erase_job(connection, "default", job_id)
    erased, other = read(database, batch_id)
    assert asdict(erased) == asdict(ResultLine(0, None, job_id, JobState.SUCCEEDED))
    assert other.custom_id == "else"


def test_a_failed_job_has_its_error_and_a_canceled_one_none(database: Database) -> None:
    batch_id = queue_batch(database, ["a", "b"])
    first, second = (line.job_id for line in read(database, batch_id))
    assert first
    assert second
    error = {"code": "out_of_memory", "detail": "too large"}
    with database.write() as connection:
        failed = {"state": "failed", "error": error, "finished_at": after_now(0)}
        connection.execute(update(jobs).where(jobs.c.id == first).values(failed))
        cancel_job(connection, "default", second)
    lines = read(database, batch_id)
    assert [(line.state, line.error) for line in lines] == [("failed", error), ("canceled", None)]


def test_a_line_that_the_cancel_came_before_is_canceled(database: Database) -> None:
    batch_id = make_batch(database)
    row = {"batch_id": batch_id, "line": 0, "tenant_id": "default", "custom_id": "a", "job_id": None, "error": None}
    with database.write() as connection:
        connection.execute(insert(batch_items).values(row))
    (line,) = read(database, batch_id)
    assert (line.job_id, line.state, line.error) == (None, JobState.CANCELED, None)


@pytest.mark.parametrize("batch_id", [new_id("bat"), "x"])
def test_an_unknown_batch_has_no_lines(database: Database, batch_id: str) -> None:
    with database.write() as connection:
        create_tenant(connection, "other", "Other")
    assert read(database, batch_id) == []
