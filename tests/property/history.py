"""A history on a database and in the model: what all its steps have in common."""

from typing import Any

from hypothesis.stateful import RuleBasedStateMachine, invariant
from sqlalchemy import Connection, select, update

from common.db import claims
from common.db.engine import Database
from common.db.jobs import insert_job
from common.db.tables import jobs
from common.db.workers import WorkerCard, register
from common.domain.fairness import Lane
from common.domain.job import ClaimedJob
from common.ids import new_id
from tests.making import make_job
from tests.property.model import Job, Model
from tests.property.rows import clear, expected, seen

LONG_SECONDS = 3600.0
LAUNCHER = "launcher"


class History(RuleBasedStateMachine):
    """Jobs, workers and every attempt ever made, so that each may write again at any later time, as zombies do."""

    database: Database

    def __init__(self) -> None:
        super().__init__()
        clear(self.database)
        self.model = Model()
        self.workers: list[str] = []
        self.claimed: list[ClaimedJob] = []
        self.finished_at: dict[str, Any] = {}

    @invariant()
    def every_row_is_what_the_model_says(self) -> None:
        """And what has ended has ended once."""
        with self.database.read() as connection:
            assert seen(connection) == expected(self.model)
            self._check_ends(connection)

    def _check_ends(self, connection: Connection) -> None:
        ended = select(jobs.c.id, jobs.c.finished_at).where(jobs.c.finished_at.is_not(None))
        moments = {row.id: row.finished_at for row in connection.execute(ended)}
        assert moments | self.finished_at == moments
        self.finished_at = moments

    def _claim(self, worker: str, limit: int, *, by_step: bool, urgent: bool = False) -> list[ClaimedJob]:
        alone = not self.model.held_by(worker)
        wishes = {"worker_id": worker, "device": "cpu", "pool": "default", "lease_seconds": LONG_SECONDS}
        wishes |= {"alone": alone, "company": "step" if by_step else "call", "urgent": urgent}
        with self.database.write() as connection:
            got = claims.claim(connection, limit=limit, **wishes)  # type: ignore[arg-type]
        due = self.model.claim(worker, limit, alone=alone, by_step=by_step, urgent=urgent)
        assert [job.id for job in got] == due
        for job in got:
            known = self._known(job)
            assert (job.fence, job.tries, job.max_tries) == (known.fence, known.tries, known.max_tries)
            assert (job.solo, job.solo_crashes, job.lane) == (known.solo, known.solo_crashes, known.lane)
            assert {step.number for step in job.done_steps} == known.steps.keys()
        self.claimed += got
        return got

    def _submit(self, lane: Lane, budget: int, prompt: str, width: int) -> None:
        job = make_job(lane=lane, max_tries=budget, params={"prompt": prompt, "width": width})
        job_vtime = select(jobs.c.vtime).where(jobs.c.id == job.id)
        with self.database.write() as connection:
            insert_job(connection, job)
            vtime = connection.execute(job_vtime).scalar_one()
        self.model.jobs[job.id] = Job(job.id, lane, job.step_key, job.call_key, vtime, budget)

    def _worker(self, new: bool, draw: int) -> str:
        return self._enlist() if new else self.workers[draw % len(self.workers)]

    def _enlist(self) -> str:
        card = WorkerCard(new_id("wrk"), "default", "test", len(self.workers) + 1, "cpu", LAUNCHER)
        self._write(register, card)
        self.workers.append(card.id)
        return card.id

    def _write(self, write: Any, *arguments: Any) -> bool:
        with self.database.write() as connection:
            return bool(write(connection, *arguments))

    def _set(self, condition: Any, **values: Any) -> None:
        with self.database.write() as connection:
            connection.execute(update(jobs).where(condition).values(**values))

    def _attempt(self, draw: int, dead: bool) -> ClaimedJob:
        """An attempt that holds its job, if need be a new one; or (`dead`, or when there is none) any that ever was."""
        holding = self._holding()
        if not holding and not dead:
            self._claim(self._enlist(), 2, by_step=True)
            holding = self._holding()
        chosen = self.claimed if dead or not holding else holding
        return chosen[draw % len(chosen)]

    def _holding(self) -> list[ClaimedJob]:
        return [job for job in self.claimed if self._known(job).is_held_by(job.fence)]

    def _known(self, job: ClaimedJob) -> Job:
        return self.model.jobs[job.id]

    def _job(self, draw: int) -> Job:
        return list(self.model.jobs.values())[draw % len(self.model.jobs)]
