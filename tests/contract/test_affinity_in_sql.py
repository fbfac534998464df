"""Claims that prefer loaded models, on both databases: how far, how long, and what virtual time does meanwhile."""

import threading
from typing import Any

import pytest
from sqlalchemy import event, insert, select, text, update

from common.db.choosing import look_ahead
from common.db.engine import Database
from common.db.tables import jobs, pools, workers
from common.db.types import after_now, now
from common.domain.affinity import AFFINITY_JOBS, Affinity
from common.domain.fairness import Lane
from common.domain.job import NewJob
from tests.making import claim, enlist, submit

LOADED = Affinity(frozenset({"loaded"}))


def wait(database: Database, model: str = "other", **changes: Any) -> NewJob:
    """A queued job of this model that runs by itself in a call."""
    return submit(database, params={"model": model, "deterministic": True}, **changes)


def take(database: Database, worker: str, affinity: Affinity = LOADED, **changes: Any) -> list[str]:
    return [job.id for job in claim(database, worker, affinity=affinity, **changes)]


def row(database: Database, job: NewJob) -> Any:
    with database.read() as connection:
        return connection.execute(select(jobs).where(jobs.c.id == job.id)).one()


def served(database: Database, worker: str) -> float:
    with database.read() as connection:
        return float(connection.execute(select(workers.c.served_vtime).where(workers.c.id == worker)).scalar_one())


def test_a_loaded_model_comes_first_and_virtual_time_waits_for_the_first_in_order(database: Database) -> None:
    wait(database, "loaded")
    first, second, loaded = wait(database), wait(database), wait(database, "loaded")
    worker = enlist(database)
    take(database, worker)
    assert take(database, worker) == [loaded.id]
    assert served(database, worker) == row(database, first).vtime == 0.25
    assert row(database, first).passed_over_since is not None
    assert row(database, second).passed_over_since is None
    assert take(database, worker) == [first.id]
    assert row(database, first).passed_over_since is None
    assert take(database, worker) == [second.id]
    assert served(database, worker) == 0.5


def test_the_first_is_marked_once_and_taken_when_patience_ends(database: Database) -> None:
    first, *loaded = wait(database), *(wait(database, "loaded") for _ in range(3))
    worker = enlist(database)
    assert take(database, worker) == [loaded[0].id]
    with database.write() as connection:
        connection.execute(update(jobs).where(jobs.c.id == first.id).values(passed_over_since=after_now(-20)))
    marked = row(database, first).passed_over_since
    assert take(database, worker) == [loaded[1].id]
    assert row(database, first).passed_over_since == marked
    with database.write() as connection:
        connection.execute(update(jobs).where(jobs.c.id == first.id).values(passed_over_since=after_now(-30)))
    assert take(database, worker) == [first.id]
    assert take(database, worker) == [loaded[2].id]


def test_strictly_in_order_without_affinity_and_when_nothing_near_the_head_is_loaded(database: Database) -> None:
    made = [wait(database) for _ in range(AFFINITY_JOBS)]
    last = wait(database, "loaded")
    worker = enlist(database)
    assert take(database, worker) == [made[0].id]
    for affinity in (Affinity(), Affinity(frozenset({"loaded"}), 0), Affinity(frozenset({"third"}))):
        made.pop(0)
        assert take(database, worker, affinity) == [made[0].id]
    assert take(database, worker) == [last.id]


def test_company_is_that_of_the_preferred_job(database: Database) -> None:
    first = submit(database)
    loaded, alike = (submit(database, params={"model": "loaded", "prompt": prompt}) for prompt in ("one", "two"))
    worker = enlist(database)
    assert take(database, worker, company="step") == [loaded.id, alike.id]
    assert served(database, worker) == row(database, first).vtime


def test_a_more_urgent_job_is_not_passed_over(database: Database) -> None:
    first, loaded = wait(database, lane=Lane.NORMAL), wait(database, "loaded", lane=Lane.LOW)
    worker = enlist(database)
    assert take(database, worker) == [first.id]
    assert take(database, worker) == [loaded.id]


def test_a_busy_worker_still_empties_for_a_job_that_must_run_alone(database: Database) -> None:
    first = wait(database)
    with database.write() as connection:
        connection.execute(update(jobs).values(solo=True))
    wait(database, "loaded")
    worker = enlist(database)
    assert take(database, worker, alone=False) == []
    assert take(database, worker) == [first.id]


def test_a_paused_pool_gives_nothing_and_marks_nothing(database: Database) -> None:
    first, _ = wait(database), wait(database, "loaded")
    with database.write() as connection:
        connection.execute(update(pools).values(paused_at=now()))
    worker = enlist(database)
    assert take(database, worker) == []
    assert (row(database, first).passed_over_since, served(database, worker)) == (None, 0.0)


def test_workers_at_once_take_every_job_once(database: Database) -> None:
    made = [wait(database, model).id for model in ("loaded", "other") * 12]
    taken: list[str] = []

    def work(model: str) -> None:
        worker = enlist(database)
        while got := take(database, worker, Affinity(frozenset({model}))):
            taken.extend(got)

    threads = [threading.Thread(target=work, args=(model,)) for model in ("loaded", "other") * 2]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(taken) == sorted(made)


@pytest.mark.parametrize("loaded", [True, False])
def test_a_claim_is_a_few_statements_that_look_at_few_rows(database: Database, loaded: bool) -> None:
    wait(database), wait(database, "loaded" if loaded else "third")
    with database.write() as connection:
        for number in range(11):  # each round doubles the rows of the hot table
            values: list[Any] = [jobs.c.id + f"-{number}" if one is jobs.c.id else one for one in jobs.c]
            values[list(jobs.c).index(jobs.c.vtime)] = jobs.c.vtime + 2.0**number
            connection.execute(insert(jobs).from_select(jobs.c.keys(), select(*values)))
        connection.execute(text("ANALYZE jobs"))
    asked: list[tuple[str, Any]] = []

    def note(_connection: Any, _cursor: Any, statement: str, parameters: Any, *_rest: Any) -> None:
        asked.append((statement, parameters))

    worker = enlist(database)
    event.listen(database.engine, "before_cursor_execute", note)
    try:
        assert len(take(database, worker)) == 1
    finally:
        event.remove(database.engine, "before_cursor_execute", note)
    looking = [one for one in asked if one[0].startswith("SELECT") and " LIMIT " in one[0]]
    claims = [one for one in asked if one[0].startswith(("UPDATE jobs", "WITH"))]
    assert len(looking) == 1
    assert len(claims) == 1 + loaded  # and the mark of the one that was passed over
    with database.read() as connection:
        explain = "EXPLAIN QUERY PLAN" if database.is_sqlite else "EXPLAIN (COSTS OFF)"
        plans = [
            str(line)
            for one in (*looking, *claims)
            for line in connection.exec_driver_sql(f"{explain} {one[0]}", one[1])
        ]
    assert "ix_jobs_claim" in " ".join(plans)
    assert not any("SCAN jobs" in line or "Seq Scan on jobs" in line for line in plans), plans
    with database.read() as connection:
        assert len(look_ahead(connection, "default")) == AFFINITY_JOBS
