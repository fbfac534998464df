"""What the kill cases share: jobs put in, faults' delays shortened, and the look back when all has come to rest."""

from collections.abc import Collection
from typing import Any

from sqlalchemy import func, select, update

from common.db.engine import Database
from common.db.tables import intakes, jobs
from common.db.types import after_now
from common.domain.lifecycle import TERMINAL
from sweeper.cleaner import Cleaner
from tests.faults.deployment import Deployment
from tests.faults.invariants import check, orphans
from tests.faults.pictures import wrong_in_store
from tests.making import submit
from tests.processes.harness import eventually

STEPS = {"num_inference_steps": 4, "effective_steps": 4}


def submit_many(made: Deployment, count: int, *, prefix: str = "job", **params: Any) -> list[str]:
    """So many jobs, each with its own prompt and seed; two in five make two pictures."""
    wishes = [
        STEPS | {"prompt": f"{prefix} {number}", "seed": number, "num_images": 1 + (number % 5 < 2)}
        for number in range(count)
    ]
    return [submit(made.database, params=wish | params).id for wish in wishes]


def unfinished(database: Database) -> int:
    """How many jobs are not over."""
    with database.read() as connection:
        query = select(func.count()).select_from(jobs).where(jobs.c.state.not_in(TERMINAL))
        return int(connection.execute(query).scalar_one())


def until_all_over(made: Deployment, *, seconds: float = 60) -> None:
    """Wait until every job is terminal. What a third try waits for by design, it does not wait for here."""
    eventually(lambda: _hurry(made.database) is None and not unfinished(made.database), seconds=seconds, what="the end")


def states_of(database: Database, ids: Collection[str]) -> dict[str, str]:
    """Where these jobs are."""
    with database.read() as connection:
        rows = connection.execute(select(jobs.c.id, jobs.c.state).where(jobs.c.id.in_(ids)))
        return {row.id: str(row.state) for row in rows}


def tries_of(database: Database, ids: Collection[str]) -> set[int]:
    """The different numbers of tries that these jobs have spent."""
    with database.read() as connection:
        return set(connection.execute(select(jobs.c.tries).where(jobs.c.id.in_(ids))).scalars())


def assert_clean_end(made: Deployment, acknowledged: Collection[str]) -> None:
    """Every invariant holds, every picture is right, and after cleaning no object is without its row."""
    check(made.database, made.store, acknowledged)
    assert list(wrong_in_store(made.database, made.store)) == []
    settings = made.stack.settings.model_copy(update={"orphan_seconds": 0.001})
    Cleaner(settings, made.database, lambda: made.store).run_once()
    assert orphans(made.database, made.store) == []
    check(made.database, made.store, acknowledged)


def let_intake_leases_pass(database: Database) -> None:
    """A courier has half a minute and a lease for an image: as if they had passed."""
    with database.write() as connection:
        connection.execute(update(intakes).where(intakes.c.lease_until.is_not(None)).values(lease_until=after_now(-1)))


def _hurry(database: Database) -> None:
    """Backoff lasts 15 seconds and more on every clock: as if it had passed."""
    with database.write() as connection:
        connection.execute(update(jobs).where(jobs.c.held == "delayed").values(run_after=after_now(-1)))
