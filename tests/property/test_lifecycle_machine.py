"""The lifecycle under arbitrary histories: workers that claim, die, wake late, drain and finish, on both databases.

After every step the rows are compared with a model of what they must be, and every call's answer with the model's.
"""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    initialize,
    rule,
    run_state_machine_as_test,
)
from sqlalchemy import case, select, update

from common.db import chains, claims
from common.db.edits import JobEdit, edit_job
from common.db.engine import Database
from common.db.erasing import erase_job
from common.db.jobs import cancel_job
from common.db.tables import jobs, pools
from common.db.types import after_now, now
from common.db.workers import report_end
from common.domain.errors import Conflict
from common.domain.fairness import Lane
from common.domain.job import DoneStep
from common.domain.lifecycle import JobState
from common.domain.retry import FailureClass, GiveUp, ProcessEnd, after_failure
from common.queue.doorbell import NoDoorbell
from common.settings import Settings
from sweeper.main import Sweeper
from tests.making import make_image
from tests.property.history import LAUNCHER, LONG_SECONDS, History
from tests.property.model import RUNNING, Job, loss_of
from tests.property.rows import hurry

pytestmark = pytest.mark.timeout(600)

PROMPTS = ("a blue square", "a red square")
WIDTHS = (64, 128)

numbers = st.integers(0, 999)
seldom = st.sampled_from([False, False, False, True])
budgets = st.sampled_from([1, 3, 4])


class Lifecycle(History):
    """What clients, workers, the sweeper and the clock do."""

    sweeper: Sweeper

    @initialize(count=st.integers(2, 4))
    def begins_with_some_jobs(self, count: int) -> None:
        for _ in range(count):
            self._submit(Lane.NORMAL, 3, PROMPTS[0], WIDTHS[0])
        self._claim(self._enlist(), 1, by_step=True)

    @rule(lane=st.sampled_from(Lane), budget=budgets, prompt=st.sampled_from(PROMPTS), width=st.sampled_from(WIDTHS))
    def a_client_submits(self, lane: Lane, budget: int, prompt: str, width: int) -> None:
        self._submit(lane, budget, prompt, width)

    @rule(new=st.booleans(), draw=numbers, limit=st.integers(1, 4), by_step=st.booleans(), urgent=seldom)
    def a_worker_claims(self, new: bool, draw: int, limit: int, by_step: bool, urgent: bool) -> None:
        self._claim(self._worker(new, draw), limit, by_step=by_step, urgent=urgent)

    @rule(new=st.booleans(), draw=numbers, limit=st.integers(1, 4))
    def a_worker_claims_and_what_it_claimed_joins(self, new: bool, draw: int, limit: int) -> None:
        for job in self._claim(self._worker(new, draw), limit, by_step=True):
            assert self._write(claims.join, job.id, job.fence, "cpu")
            assert self.model.join(self._known(job), job.fence)

    @rule(draw=numbers, dead=seldom)
    def an_attempt_joins(self, draw: int, dead: bool) -> None:
        job = self._attempt(draw, dead)
        said = self._write(claims.join, job.id, job.fence, "cpu")
        assert said == self.model.join(self._known(job), job.fence)

    @rule(draw=numbers, dead=seldom)
    def an_attempt_finishes(self, draw: int, dead: bool) -> None:
        job = self._attempt(draw, dead)
        said = self._write(claims.finish, job, [make_image(job)], {})
        assert said == self.model.finish(self._known(job), job.fence)
        stands = self._known(job).image_fence == job.fence
        assert self._write(claims.has_succeeded, job.id, job.fence) == stands

    @rule(draw=numbers, dead=seldom, kind=st.sampled_from(FailureClass))
    def an_attempt_fails(self, draw: int, dead: bool, kind: FailureClass) -> None:
        job, code = self._attempt(draw, dead), "internal"
        decision = after_failure(kind, code, tries=job.tries, max_tries=job.max_tries, jitter=0.0)
        if isinstance(decision, GiveUp):
            said = self._write(claims.fail, job.id, job.fence, {"code": decision.code})
            assert said == self.model.fail(self._known(job), job.fence, decision.code)
        else:
            said = self._write(claims.hand_back, job.id, job.fence, decision, code)
            assert said == self.model.hand_back(self._known(job), job.fence, decision, code)

    @rule(draw=numbers, dead=seldom, alone=st.booleans())
    def a_device_is_lost_and_its_worker_says_so(self, draw: int, dead: bool, alone: bool) -> None:
        job, crashes = self._attempt(draw, dead), int(alone)
        claimed_with = Job("", Lane.NORMAL, "", "", 0.0, job.max_tries, tries=job.tries, solo_crashes=job.solo_crashes)
        decision = loss_of(claimed_with, joined=True, alone=alone, crashes=crashes)
        if isinstance(decision, GiveUp):
            said = self._write(claims.fail, job.id, job.fence, {"code": decision.code})
            assert said == self.model.fail(self._known(job), job.fence, decision.code)
        else:
            said = self._write(_with_crashes(crashes), job.id, job.fence, decision, "worker_lost")
            assert said == self.model.hand_back(self._known(job), job.fence, decision, "worker_lost", crashes)

    @rule(draw=numbers, dead=seldom)
    def an_attempt_lets_go_of_a_cancelled_job(self, draw: int, dead: bool) -> None:
        job = self._attempt(draw, dead)
        said = self._write(claims.cancel_running, job.id, job.fence)
        assert said == self.model.cancel_running(self._known(job), job.fence)

    @rule(draw=numbers, dead=seldom, number=st.integers(0, 1))
    def an_attempt_records_a_pass(self, draw: int, dead: bool, number: int) -> None:
        job = self._attempt(draw, dead)
        known = self._known(job)
        number = min(number, len(known.steps))  # passes are done in order
        step = DoneStep(number, f"steps/{job.id}/{job.fence}/{number}", "ab" * 32)
        assert self._write(chains.record_step, job, step, 3) == self.model.record_step(known, job.fence, number)

    @rule(draw=numbers, wide=st.booleans())
    def a_heart_beats(self, draw: int, wide: bool) -> None:
        """The jobs of one worker by name, or everybody's: no worker renews a job that it does not hold."""
        worker = self.workers[draw % len(self.workers)]
        mine = self.model.held_by(worker)
        names = [job.id for job in (self.model.jobs.values() if wide else mine)]
        with self.database.write() as connection:
            answers = [
                claims.renew(connection, worker, names, LONG_SECONDS),
                claims.look_at_held(connection, worker),
            ]
        due = {claims.Held(job.id, job.fence, job.is_cancel_wished, job.is_late) for job in mine}
        assert [set(answer) for answer in answers] == [due, due]
        for job in mine:
            job.is_expired = False

    @rule(draw=numbers, is_begun=st.booleans())
    def a_client_cancels(self, draw: int, is_begun: bool) -> None:
        running = [job for job in self.model.jobs.values() if job.state is RUNNING]
        job = running[draw % len(running)] if is_begun and running else self._job(draw)
        self._write(cancel_job, "other", job.id)
        self._write(cancel_job, "default", job.id)
        self.model.cancel(job)

    @rule(draw=numbers, lane=st.one_of(st.none(), st.sampled_from(Lane)))
    def a_client_edits(self, draw: int, lane: Lane | None) -> None:
        job = self._job(draw)
        vtime = select(jobs.c.vtime).where(jobs.c.id == job.id)
        try:
            with self.database.write() as connection:
                edit_job(connection, "default", job.id, JobEdit(lane, {"tags": [f"{draw}"]}))
                vtime_now = connection.execute(vtime).scalar_one()
        except Conflict:
            assert job.state is not JobState.QUEUED
            return
        assert self.model.edit(job, lane or job.lane, vtime_now)

    @rule(draw=numbers, is_so=seldom)
    def a_client_has_a_job_erased(self, draw: int, is_so: bool) -> None:
        if is_so:
            job = self._job(draw)
            assert self._write(erase_job, "default", job.id)
            assert not self._write(erase_job, "other", job.id)
            self.model.cancel(job)
            job.is_erased = True

    @rule(draw=numbers)
    def a_lease_runs_out(self, draw: int) -> None:
        """Nobody has noticed yet: its worker may still renew it, or conclude the job."""
        running = [job for job in self.model.jobs.values() if job.state is RUNNING]
        for job in running[draw % len(running) :][:1] if running else []:
            job.is_expired = True

    @rule(draw=numbers, end=st.one_of(st.none(), st.sampled_from(ProcessEnd)))
    def a_worker_dies_and_is_missed(self, draw: int, end: ProcessEnd | None) -> None:
        """Or somebody says so, wrongly perhaps: what it writes afterwards is a zombie's."""
        holders = sorted({job.worker for job in self.model.jobs.values() if job.worker is not None}) or self.workers
        worker = holders[draw % len(holders)]
        if end is not None:
            self._write(report_end, LAUNCHER, 1 + self.workers.index(worker), end)
            self.model.end_process(worker, end)
        for job in self.model.held_by(worker):
            job.is_expired = True
        self.the_sweeper_comes()

    @rule(draw=numbers, is_so=seldom)
    def a_deadline_passes(self, draw: int, is_so: bool) -> None:
        job = self._job(draw)
        if is_so and not job.state.is_terminal:
            job.is_late = True
            self._set(jobs.c.id == job.id, deadline_at=after_now(-1))

    @rule()
    def delays_pass(self) -> None:
        for job in self.model.jobs.values():
            job.is_due = job.held == "delayed"

    @rule()
    def the_sweeper_comes(self) -> None:
        """Moments come before a sweep only, and all at once: nothing here depends on how long the test takes."""
        expired = {job.id for job in self.model.jobs.values() if job.is_expired}
        due = {job.id for job in self.model.jobs.values() if job.is_due}
        self._set(jobs.c.state == RUNNING, lease_until=_past_if(jobs.c.id.in_(expired)))
        self._set(jobs.c.held == "delayed", run_after=_past_if(jobs.c.id.in_(due)))
        assert self.sweeper.run_once() == self.model.sweep()

    @rule(draw=numbers)
    def an_operator_pauses_the_pool_until_a_worker_has_asked(self, draw: int) -> None:
        for is_paused in (True, False):
            self.model.is_paused = is_paused
            with self.database.write() as connection:
                connection.execute(update(pools).values(paused_at=now() if is_paused else None))
            if is_paused:
                assert not self._claim(self._worker(False, draw), 4, by_step=True)


def _with_crashes(crashes: int) -> Any:
    return lambda connection, *rest: claims.hand_back(connection, *rest, crashes=crashes)


def _past_if(condition: Any) -> Any:
    return case((condition, after_now(-1)), else_=after_now(LONG_SECONDS))


def run_histories(database: Database, folder: Path, *, examples: int, steps: int) -> None:
    class OnThisDatabase(Lifecycle):
        pass

    hurry(database)
    OnThisDatabase.database = database
    OnThisDatabase.sweeper = Sweeper(
        Settings(_env_file=None, data_dir=folder, lease_seconds=LONG_SECONDS), database, NoDoorbell()
    )
    chosen = settings(
        max_examples=examples,
        stateful_step_count=steps,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        database=None,
    )
    run_state_machine_as_test(OnThisDatabase, settings=chosen)  # type: ignore[no-untyped-call]


def test_no_history_breaks_the_lifecycle(database: Database, tmp_path: Path) -> None:
    run_histories(database, tmp_path, examples=150, steps=80)


@pytest.mark.chaos
@pytest.mark.timeout(3600)
def test_no_history_breaks_the_lifecycle_however_many_are_tried(database: Database, tmp_path: Path) -> None:
    run_histories(database, tmp_path, examples=1500, steps=80)
