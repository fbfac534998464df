"""The invariants of batches find what is broken, and nothing in what is right."""

from collections.abc import Callable

import pytest
from sqlalchemy import Select, delete, insert, select, update

from common.db import batch_work, claims
from common.db.batch_work import NewItem
from common.db.engine import Database
from common.db.tables import batch_items, batches, jobs, tenants
from common.domain.batch import BatchState
from tests.contract.batch_making import make_items, put, start
from tests.faults.batch_invariants import batch_violations
from tests.making import claim, enlist, make_image


def fill(database: Database) -> batch_work.BatchWork:
    work = start(database, 3)
    put(database, work, [*make_items(0, 2), NewItem(2, "c", error={"code": "unknown_model"})])
    return work


@pytest.fixture
def work(sqlite_database: Database) -> batch_work.BatchWork:
    """A batch that is over: two jobs succeeded, one line was wrong."""
    work = fill(sqlite_database)
    for job in claim(sqlite_database, enlist(sqlite_database), company="step"):
        with sqlite_database.write() as connection:
            claims.finish(connection, job, [make_image(job)], {})
    with sqlite_database.write() as connection:
        assert batch_work.settle_batch(connection, work) is BatchState.COMPLETED
    return work


def test_nothing_is_found_in_a_batch_that_is_right(sqlite_database: Database, work: batch_work.BatchWork) -> None:
    assert list(batch_violations(sqlite_database)) == []


def test_a_batch_that_is_on_its_way_is_found_at_rest_only(sqlite_database: Database) -> None:
    work = fill(sqlite_database)
    assert list(batch_violations(sqlite_database, at_rest=False)) == []
    assert list(batch_violations(sqlite_database)) == [f"I1 {work.id} is still running, 3 of 3 lines inserted"]


def lose_an_item(database: Database) -> None:
    with database.write() as connection:
        connection.execute(delete(batch_items).where(batch_items.c.line == 1))


def lose_a_job(database: Database) -> None:
    with database.write() as connection:
        connection.execute(update(jobs).where(jobs.c.id.in_(_named(1))).values(batch_id=None))


def double_a_job(database: Database) -> None:
    with database.write() as connection:
        named = _named(0).scalar_subquery()
        connection.execute(update(batch_items).where(batch_items.c.line == 1).values(job_id=named))


def miscount_the_lines(database: Database) -> None:
    with database.write() as connection:
        connection.execute(update(batches).values(total=4))


def give_an_item_away(database: Database) -> None:
    with database.write() as connection:
        connection.execute(insert(tenants).values(id="other", name="Other"))
        connection.execute(update(batch_items).where(batch_items.c.line == 0).values(tenant_id="other"))


def _named(line: int) -> Select[tuple[str]]:
    return select(batch_items.c.job_id).where(batch_items.c.line == line)


@pytest.mark.parametrize(
    ("breaks", "invariant"),
    [
        (lose_an_item, "I7"),
        (lose_a_job, "I7"),
        (double_a_job, "I7"),
        (miscount_the_lines, "I7"),
        (give_an_item_away, "I10"),
    ],
)
def test_what_is_broken_is_found(
    sqlite_database: Database, work: batch_work.BatchWork, breaks: Callable[[Database], None], invariant: str
) -> None:
    breaks(sqlite_database)
    found = list(batch_violations(sqlite_database))
    assert found
    assert all(one.startswith(f"{invariant} {work.id}") for one in found)
