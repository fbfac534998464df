"""When a job is taken from its worker, and what happens to transactions that stand in each other's way."""

import threading

import pytest
from sqlalchemy import select, text, update

from common.db import rescue
from common.db.engine import Contention, Database
from common.db.tables import jobs, workers
from common.db.types import after_now
from common.domain.lifecycle import JobState
from tests.making import claim, enlist, submit

LEASE_SECONDS = 30.0


def lapse(database: Database, seconds: float) -> None:
    """Every lease ran out so long ago, and every worker has beaten last one lease before that."""
    with database.write() as connection:
        running = update(jobs).where(jobs.c.state == JobState.RUNNING)
        connection.execute(running.values(lease_until=after_now(-seconds)))
        connection.execute(update(workers).values(heartbeat_at=after_now(-seconds - LEASE_SECONDS)))


def sweep(database: Database) -> list[str]:
    with database.write() as connection:
        return rescue.rescue_expired(connection, 0.0, lease_seconds=LEASE_SECONDS).ids


def test_a_job_is_rescued_at_once_when_a_worker_of_its_pool_beats(database: Database) -> None:
    job = submit(database)
    claim(database, enlist(database))
    lapse(database, seconds=1)
    enlist(database)
    assert sweep(database) == [job.id]


def test_while_no_worker_of_the_pool_beats_a_rescue_waits_for_one_more_lease(database: Database) -> None:
    job = submit(database)
    claim(database, enlist(database))
    lapse(database, seconds=LEASE_SECONDS - 5)
    enlist(database, pool="another")
    assert sweep(database) == []
    lapse(database, seconds=LEASE_SECONDS + 1)
    assert sweep(database) == [job.id]


def test_a_sweep_goes_through_page_after_page(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rescue, "RESCUE_PAGE", 3)
    made = {submit(database).id for _ in range(8)}
    claim(database, enlist(database))
    lapse(database, seconds=LEASE_SECONDS + 1)
    seen: list[str] = []
    after: rescue.Cursor | None = None
    for _ in range(3):
        with database.write() as connection:
            page = rescue.rescue_expired(connection, 0.0, after=after)
        seen += page.ids
        after = page.following
    assert (set(seen), len(seen), after) == (made, 8, None)


@pytest.mark.postgres
def test_of_two_transactions_in_a_deadlock_the_loser_is_begun_anew(postgres_database: Database) -> None:
    database, ids = postgres_database, [submit(postgres_database).id for _ in range(2)]
    both_hold_one = threading.Barrier(2)
    tries: list[int] = []

    def lock(first: str, second: str) -> None:
        mine = [0]

        def work(connection: object) -> None:
            mine[0] += 1
            connection.execute(select(jobs.c.id).where(jobs.c.id == first).with_for_update())  # type: ignore[attr-defined]
            if mine[0] == 1:
                both_hold_one.wait(10)
            connection.execute(select(jobs.c.id).where(jobs.c.id == second).with_for_update())  # type: ignore[attr-defined]

        database.transact(work)
        tries.append(mine[0])

    threads = [threading.Thread(target=lock, args=pair) for pair in (ids, ids[::-1])]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert sorted(tries) == [1, 2]


@pytest.mark.postgres
def test_contention_without_end_is_reported_as_unavailable(postgres_database: Database) -> None:
    tries: list[None] = []

    def work(connection: object) -> None:
        tries.append(None)
        connection.execute(text("DO $$ BEGIN RAISE EXCEPTION 'no' USING ERRCODE = '40001'; END $$"))  # type: ignore[attr-defined]

    with pytest.raises(Contention) as caught:
        postgres_database.transact(work)
    assert caught.value.code == "unavailable"
    assert len(tries) == 5
