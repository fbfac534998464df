"""What a launcher makes of the end of a worker process."""

import os
import signal
from pathlib import Path

import pytest
from sqlalchemy import select

from common.db import rescue
from common.db.engine import Database
from common.db.tables import jobs, workers
from common.db.workers import WorkerCard, beat, count_live, register
from common.domain.lifecycle import JobState
from common.domain.retry import ProcessEnd
from common.settings import Settings
from tests.making import claim, submit
from tests.waiting import wait_until
from worker import deaths
from worker.deaths import DeathReporter, judge


@pytest.mark.parametrize(
    ("exit_code", "ran_out_of_memory", "end"),
    [
        (0, False, ProcessEnd.KILLED),
        (70, False, ProcessEnd.CRASHED),
        (-signal.SIGSEGV, False, ProcessEnd.CRASHED),
        (-signal.SIGABRT, False, ProcessEnd.CRASHED),
        (-signal.SIGKILL, False, ProcessEnd.KILLED),
        (-signal.SIGKILL, True, ProcessEnd.CRASHED),
        (-signal.SIGTERM, False, ProcessEnd.KILLED),
        (-signal.SIGTERM, True, ProcessEnd.KILLED),
    ],
)
def test_each_exit_has_its_meaning(exit_code: int, ran_out_of_memory: bool, end: ProcessEnd) -> None:
    assert judge(exit_code, ran_out_of_memory=ran_out_of_memory) is end


def test_the_kernels_counter_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    events = tmp_path / "memory.events"
    monkeypatch.setattr(deaths, "_COUNTERS", (events, tmp_path / "vmstat"))
    assert deaths.count_oom_kills() == 0
    events.write_text("low 0\nhigh 0\nmax 3\noom 2\noom_kill 1\n")
    assert deaths.count_oom_kills() == 1
    events.unlink()
    (tmp_path / "vmstat").write_text("pgfault 12\noom_kill 7\n")
    assert deaths.count_oom_kills() == 7


def test_what_a_launcher_saw_ends_the_leases_of_that_process_and_poisons_nobody(
    database: Database, tmp_path: Path
) -> None:
    settings = Settings(_env_file=None, data_dir=tmp_path, database_url=database.engine.url.render_as_string(False))
    reporter, job = DeathReporter(settings), submit(database, max_tries=9)
    for number in range(4):
        card = WorkerCard(f"wrk_{number}", "default", "host", os.getpid(), "cpu", reporter.token)
        with database.write() as connection:
            register(connection, card)
        (held,) = claim(database, card.id)
        with database.write() as connection:
            rescue_nobody = rescue.rescue_expired(connection, 0.0).ids
        reporter(os.getpid(), -signal.SIGKILL)
        wait_until(lambda: lease_is_over(database), what="the report")
        with database.write() as connection:
            assert count_live(connection, "default", 30) == 0
            assert rescue.rescue_expired(connection, 0.0, lease_seconds=30).ids == [held.id]
        assert rescue_nobody == []
    with database.read() as connection:
        row = connection.execute(select(jobs)).one()
        ends = set(connection.execute(select(workers.c.ended)).scalars())
    assert (row.id, row.state, row.held, row.solo, row.solo_crashes) == (job.id, JobState.QUEUED, None, False, 0)
    assert (row.tries, ends) == (4, {"killed"})


def lease_is_over(database: Database) -> bool:
    with database.write() as connection:
        return connection.execute(select(jobs.c.id).where(jobs.c.lease_until <= rescue.now())).one_or_none() is not None


def test_a_process_of_another_launcher_with_the_same_id_is_left_alone_and_a_beat_proves_life(
    database: Database, tmp_path: Path
) -> None:
    settings = Settings(_env_file=None, data_dir=tmp_path, database_url=database.engine.url.render_as_string(False))
    mine, theirs = DeathReporter(settings), DeathReporter(settings)
    card = WorkerCard("wrk_theirs", "default", "host", 7, "cpu", theirs.token)
    with database.write() as connection:
        register(connection, card)
    mine(7, -signal.SIGSEGV)
    mine.close()
    with database.write() as connection:
        assert count_live(connection, "default", 30) == 1
    theirs(7, -signal.SIGSEGV)
    theirs.close()
    with database.write() as connection:
        assert count_live(connection, "default", 30) == 0
        beat(connection, card, state="ready", resident=())
        assert count_live(connection, "default", 30) == 1
