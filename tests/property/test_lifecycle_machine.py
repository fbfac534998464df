"""The lifecycle under arbitrary histories: workers that claim, die, wake late, drain and finish, on both databases."""

import random
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test
from sqlalchemy import func, select, update

from common.db import claims, rescue
from common.db.engine import Database
from common.db.jobs import cancel_job
from common.db.tables import attempts, images, job_events, jobs
from common.db.types import after_now
from common.domain.job import ClaimedJob
from common.domain.lifecycle import JobState
from common.domain.retry import TryAgain
from tests.conftest import empty
from tests.making import claim, enlist, make_image, submit

pytestmark = pytest.mark.timeout(600)


class Lifecycle(RuleBasedStateMachine):
    """Every attempt ever made stays in `attempts`, so that each may write again at any later time, as zombies do."""

    database: Database

    def __init__(self) -> None:
        super().__init__()
        self.made: list[str] = []
        self.attempts: list[ClaimedJob] = []
        self.final: dict[str, tuple[Any, ...]] = {}

    def _write(self, write: Any, *arguments: Any) -> bool:
        with self.database.write() as connection:
            return bool(write(connection, *arguments))

    def _any_attempt(self, draw: int) -> ClaimedJob:
        return self.attempts[draw % len(self.attempts)]

    @rule(budget=st.integers(1, 4))
    def a_client_submits(self, budget: int) -> None:
        self.made.append(submit(self.database, max_tries=budget).id)

    @rule(limit=st.integers(1, 3))
    def a_worker_claims(self, limit: int) -> None:
        self.attempts += claim(self.database, enlist(self.database), limit=limit)

    @precondition(lambda self: self.attempts)
    @rule(draw=st.integers(0, 999))
    def joins(self, draw: int) -> None:
        job = self._any_attempt(draw)
        self._write(claims.join, job.id, job.fence, "cpu")

    @precondition(lambda self: self.attempts)
    @rule(draw=st.integers(0, 999))
    def finishes(self, draw: int) -> None:
        job = self._any_attempt(draw)
        if self._write(claims.finish, job, [make_image(job)], {}):
            assert self._is_newest(job)

    @precondition(lambda self: self.attempts)
    @rule(draw=st.integers(0, 999))
    def fails(self, draw: int) -> None:
        job = self._any_attempt(draw)
        if self._write(claims.fail, job.id, job.fence, {"code": "internal"}):
            assert self._is_newest(job)

    @precondition(lambda self: self.attempts)
    @rule(draw=st.integers(0, 999), refund=st.booleans(), delay=st.sampled_from([0.0, 5.0]))
    def hands_back(self, draw: int, refund: bool, delay: float) -> None:
        job = self._any_attempt(draw)
        # As `retry.after_failure` decides: with the budget spent, only a drain hands back.
        decision = TryAgain(delay, refund=refund or job.tries >= job.max_tries)
        if self._write(claims.hand_back, job.id, job.fence, decision):
            assert self._is_newest(job)

    @precondition(lambda self: self.attempts)
    @rule(draw=st.integers(0, 999))
    def lets_go_of_a_cancelled_one(self, draw: int) -> None:
        job = self._any_attempt(draw)
        self._write(claims.cancel_running, job.id, job.fence)

    @precondition(lambda self: self.made)
    @rule(draw=st.integers(0, 999))
    def client_cancels(self, draw: int) -> None:
        self._write(cancel_job, "default", self.made[draw % len(self.made)])

    @rule(share=st.floats(0, 1))
    def leases_run_out_and_the_sweeper_comes(self, share: float) -> None:
        with self.database.write() as connection:
            running = connection.execute(select(jobs.c.id).where(jobs.c.state == JobState.RUNNING)).scalars().all()
            chosen = random.Random(share).sample(running, int(len(running) * share))
            connection.execute(update(jobs).where(jobs.c.id.in_(chosen)).values(lease_until=after_now(-1)))
        self._write(rescue.rescue_expired, 0.0)

    @rule()
    def delays_pass(self) -> None:
        with self.database.write() as connection:
            connection.execute(update(jobs).where(jobs.c.held == "delayed").values(run_after=after_now(-1)))
        self._write(rescue.release_delayed)

    @precondition(lambda self: self.made)
    @rule(draw=st.integers(0, 999))
    def a_deadline_passes(self, draw: int) -> None:
        with self.database.write() as connection:
            chosen = self.made[draw % len(self.made)]
            connection.execute(update(jobs).where(jobs.c.id == chosen).values(deadline_at=after_now(-1)))
        self._write(rescue.end_queued)

    def _is_newest(self, job: ClaimedJob) -> bool:
        return job.fence == max(other.fence for other in self.attempts if other.id == job.id)

    @invariant()
    def history_is_one_row_per_version(self) -> None:
        counted = select(job_events.c.job_id, func.count(), func.max(job_events.c.version)).group_by(
            job_events.c.job_id
        )
        with self.database.read() as connection:
            versions = {row.id: row.version for row in connection.execute(select(jobs.c.id, jobs.c.version))}
            for job_id, count, newest in connection.execute(counted.group_by(job_events.c.job_id)):
                assert count == newest == versions[job_id]

    @invariant()
    def terminal_states_never_change(self) -> None:
        columns = (jobs.c.id, jobs.c.state, jobs.c.version, jobs.c.finished_at)
        with self.database.read() as connection:
            rows = {row.id: tuple(row) for row in connection.execute(select(*columns))}
        for job_id, before in self.final.items():
            assert rows[job_id] == before
        self.final = {job_id: row for job_id, row in rows.items() if JobState(row[1]).is_terminal}

    @invariant()
    def results_and_budgets_add_up(self) -> None:
        has_image = select(images.c.job_id).where(images.c.job_id == jobs.c.id).exists()
        open_attempts = (
            select(func.count()).where(attempts.c.job_id == jobs.c.id, attempts.c.ended_at.is_(None)).scalar_subquery()
        )
        with self.database.read() as connection:
            for row in connection.execute(select(jobs, has_image.label("has_image"), open_attempts.label("open"))):
                state = JobState(row.state)
                assert bool(row.has_image) == (state is JobState.SUCCEEDED)
                assert row.open == (1 if state is JobState.RUNNING else 0)
                assert 0 <= row.tries <= row.max_tries
                assert row.fence >= row.tries


def test_no_history_breaks_the_lifecycle(database: Database) -> None:
    class OnThisDatabase(Lifecycle):
        def __init__(self) -> None:
            super().__init__()
            _clear(self.database)

    OnThisDatabase.database = database
    chosen = settings(
        max_examples=60, stateful_step_count=50, deadline=None, suppress_health_check=list(HealthCheck), database=None
    )
    run_state_machine_as_test(OnThisDatabase, settings=chosen)  # type: ignore[no-untyped-call]


def _clear(database: Database) -> None:
    if not database.is_sqlite:
        empty(database)
        return
    with database.write() as connection:
        for table in (attempts, images, job_events):
            connection.execute(table.delete())
        connection.execute(jobs.delete())
