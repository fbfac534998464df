"""Case 18: rows that cannot be rescued do not keep the sweeper from those behind them."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from sqlalchemy import insert, literal, select, text, update

from common.db.engine import Database
from common.db.tables import attempts, job_requests, jobs
from common.db.types import after_now
from common.domain.lifecycle import JobState
from common.queue.doorbell import NoDoorbell
from common.settings import Settings
from sweeper.main import Sweeper
from tests.faults.logs import plain_logs
from tests.making import claim, enlist, submit
from tests.processes.harness import look_at

SWEEPS = 2
_REFUSED = "not to be rescued"


def sweeper(database: Database) -> Sweeper:
    return Sweeper(Settings(_env_file=None), database, NoDoorbell())


def expire(database: Database, job_id: str, seconds: float) -> None:
    with database.write() as connection:
        connection.execute(update(jobs).where(jobs.c.id == job_id).values(lease_until=after_now(-seconds)))


def copy_of(database: Database, job_id: str, count: int) -> list[str]:
    """So many further running jobs like this one, written in one go, with their attempts and the same lease."""
    ids = [f"{job_id}-{number:05}" for number in range(count)]
    with database.write() as connection:
        for table, name in ((jobs, "id"), (job_requests, "job_id"), (attempts, "job_id")):
            row = dict(connection.execute(select(table).where(table.c[name] == job_id)).one()._mapping)
            connection.execute(insert(table), [row | {name: one} for one in ids])
    return ids


@contextmanager
def refusing(database: Database, prefix: str) -> Iterator[None]:
    """The database itself refuses to move these jobs, as a broken constraint would."""
    if database.is_sqlite:
        before = ["CREATE TRIGGER refuse BEFORE UPDATE ON jobs WHEN OLD.id LIKE '{0}-%' "]
        before[0] += "BEGIN SELECT RAISE(ABORT, '{1}'); END"
        after = ["DROP TRIGGER refuse"]
    else:
        before = [
            "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS "
            "$$ BEGIN RAISE integrity_constraint_violation USING MESSAGE = '{1}'; END $$",
            "CREATE TRIGGER refuse BEFORE UPDATE ON jobs FOR EACH ROW WHEN (OLD.id LIKE '{0}-%') "
            "EXECUTE FUNCTION refuse()",
        ]
        after = ["DROP TRIGGER refuse ON jobs", "DROP FUNCTION refuse"]
    _run(database, [one.format(prefix, _REFUSED) for one in before])
    try:
        yield
    finally:
        _run(database, after)


def _run(database: Database, statements: list[str]) -> None:
    with database.write() as connection:
        for statement in statements:
            connection.execute(text(statement))


@pytest.mark.parametrize(
    "count", [500, pytest.param(10_000, marks=[pytest.mark.chaos, pytest.mark.timeout(900)])], ids=["scaled", "full"]
)
@pytest.mark.parametrize("seconds", [1, 200], ids=["after", "before"])
def test_one_expired_lease_behind_unrescuable_rows_is_rescued_in_two_sweeps(
    database: Database, seconds: float, count: int
) -> None:
    """Whether it ran out after those in its way or before them."""
    victim, model = submit(database), submit(database, params={"width": 128})
    for _ in range(2):
        claim(database, enlist(database))
    expire(database, victim.id, seconds)
    expire(database, model.id, 100)
    stuck = copy_of(database, model.id, count)
    with plain_logs(), refusing(database, model.id):
        for _ in range(SWEEPS):
            sweeper(database).run_once()
        assert look_at(database, victim.id).state is JobState.QUEUED
        assert {look_at(database, job_id).state for job_id in stuck[:: count // 10]} == {JobState.RUNNING}
    sweeper(database).run_once()  # what was in their way is gone
    with database.read() as connection:
        running = select(literal(1)).where(jobs.c.state == JobState.RUNNING).limit(1)
        assert connection.execute(running).one_or_none() is None


@pytest.mark.postgres
def test_one_expired_lease_behind_rows_that_another_transaction_holds_is_rescued_in_two_sweeps(
    postgres_database: Database,
) -> None:
    database = postgres_database
    victim, model = submit(database), submit(database, params={"width": 128})
    for _ in range(2):
        claim(database, enlist(database))
    expire(database, victim.id, 1)
    expire(database, model.id, 100)
    stuck = copy_of(database, model.id, 300)
    with database.write() as other:
        other.execute(text("SELECT id FROM jobs WHERE id <> :id FOR UPDATE"), {"id": victim.id})
        for _ in range(SWEEPS):
            sweeper(database).run_once()
        assert look_at(database, victim.id).state is JobState.QUEUED
    sweeper(database).run_once()
    assert look_at(database, stuck[0]).state is JobState.QUEUED
