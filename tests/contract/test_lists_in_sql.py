"""Which jobs a list shows, on both databases."""

from sqlalchemy import update

from common.db.engine import Database
from common.db.jobs import find_job, list_jobs
from common.db.tables import jobs
from common.db.types import after_now
from tests.making import submit


def listed(database: Database, **filters: object) -> list[str]:
    with database.read() as connection:
        return [job.id for job in list_jobs(connection, "default", limit=9, after=None, filters=filters)]


def test_a_tag_is_a_whole_item_of_the_list(database: Database) -> None:
    first = submit(database, tags=("a", "b'\""))
    second = submit(database, tags=("a",))
    third = submit(database, tags=("aa", "1"))
    assert listed(database, tag="a") == [second.id, first.id]
    assert listed(database, tag="b'\"") == [first.id]
    assert listed(database, tag="1") == [third.id]
    assert listed(database, tag="%") == []


def test_the_moments_are_exclusive_and_go_with_every_other_filter(database: Database) -> None:
    first, second, third = submit(database), submit(database), submit(database)
    with database.write() as connection:
        for number, job in enumerate((third, second, first)):
            mine = jobs.c.id == job.id
            connection.execute(update(jobs).where(mine).values(created_at=after_now(-60 * number)))
        found = find_job(connection, "default", second.id)
    assert found is not None
    assert listed(database, created_after=found.created_at) == [third.id]
    assert listed(database, created_before=found.created_at, state="queued") == [first.id]
    assert listed(database, created_before=found.created_at, state="running") == []
