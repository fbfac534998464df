"""Workers that are killed, stopped and told to leave in the middle of their jobs: cases 1, 3, 5, 7 and 8."""

import os
import signal
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Table, select

from common.db.tables import attempts, images, job_events, jobs, workers
from common.domain.lifecycle import JobState, Outcome
from tests.faults.at_rest import assert_clean_end, states_of, submit_many, tries_of, unfinished, until_all_over
from tests.faults.deployment import Deployment, Part, Role, deployment
from tests.faults.invariants import read_facts
from tests.faults.recovery import rescues
from tests.faults.soak_report import bound_seconds
from tests.making import submit
from tests.processes.harness import eventually, look_at
from worker.engine.stub_engine import DEADLY_PROMPT

pytestmark = [pytest.mark.processes, pytest.mark.postgres, pytest.mark.redis]

SLACK = 3.0
SLOW = {"DARKROOM_STUB_STEP_SECONDS": "0.1"}
LONG = {"num_inference_steps": 6, "effective_steps": 6}
FULL = pytest.mark.chaos


def backend(folder: Path, *, workers: int, **more: Any) -> Any:
    """Workers and a sweeper; jobs are put in without an API."""
    return deployment(folder, apis=0, couriers=0, workers=workers, **more)


def is_denoising(made: Deployment, worker: Part) -> bool:
    """Whether a job of this worker is on the device."""
    _, worker_id = made.look(worker.pid)
    mine = (attempts.c.worker_id == worker_id) & attempts.c.joined_at.is_not(None) & attempts.c.ended_at.is_(None)
    with made.database.read() as connection:
        return connection.execute(select(attempts.c.job_id).where(mine).limit(1)).one_or_none() is not None


def outcomes_of(made: Deployment, job_id: str) -> list[str]:
    """How the job's attempts ended, in their order."""
    return [row.outcome for row in read_facts(made.database).attempts.get(job_id, ())]


@pytest.mark.parametrize("count", [40, pytest.param(200, marks=FULL)])
def test_jobs_of_a_worker_that_is_killed_mid_denoise_succeed_once_with_attempt_2(tmp_path: Path, count: int) -> None:
    with backend(tmp_path, workers=2, **SLOW) as made:
        ids = submit_many(made, count, **LONG)
        victim = made.parts["worker-0"]
        eventually(lambda: is_denoising(made, victim), what="the first step")
        made.leave_dead(victim.name)
        blow = made.kill(victim.name)
        until_all_over(made, seconds=120)
        assert set(states_of(made.database, ids).values()) == {JobState.SUCCEEDED}
        facts = read_facts(made.database)
        lost = [job_id for job_id, tried in facts.attempts.items() if tried[0].worker_id == blow.worker_id]
        lost = [job_id for job_id in lost if facts.attempts[job_id][0].outcome == Outcome.LOST]
        assert lost
        for job_id in lost:
            assert outcomes_of(made, job_id) == [Outcome.LOST, Outcome.SUCCEEDED]
        assert max(one.rescued for one in rescues(facts, made.blows)) <= SLACK * bound_seconds()
        assert_clean_end(made, ids)


@pytest.mark.parametrize("count", [30, pytest.param(200, marks=FULL)])
def test_a_backlog_drains_unaided_after_all_workers_were_killed_and_came_back(tmp_path: Path, count: int) -> None:
    with backend(tmp_path, workers=2, **SLOW) as made:
        ids = submit_many(made, count, **LONG)
        eventually(lambda: is_denoising(made, made.parts["worker-0"]), what="the first step")
        for part in made.of_role("worker"):
            made.kill(part.name)
        assert unfinished(made.database)
        for part in made.of_role("worker"):
            part.process.wait()
        assert made.revive() == 2
        until_all_over(made, seconds=120)
        assert set(states_of(made.database, ids).values()) == {JobState.SUCCEEDED}
        assert_clean_end(made, ids)


@pytest.mark.parametrize("rounds", [1, pytest.param(5, marks=FULL)])
def test_a_zombie_with_eight_results_in_flight_is_refused_all_of_them_and_the_winner_is_untouched(
    tmp_path: Path, rounds: int
) -> None:
    with backend(tmp_path, workers=0) as made:
        for number in range(rounds):
            ids = submit_many(made, 8, prefix=f"round {number}", num_images=1)
            zombie = made.start("worker", once="worker.put:sigstop")
            eventually(lambda zombie=zombie: is_stopped(zombie), what="the stop at the first result")
            held = states_of(made.database, ids)
            assert set(held.values()) == {JobState.RUNNING}
            healthy = made.start("worker")
            until_all_over(made)
            before = everything(made)
            eventually(lambda zombie=zombie: wake(zombie, refused=8), what="eight refusals")
            assert everything(made) == before
            assert {look_at(made.database, job_id).state for job_id in ids} == {JobState.SUCCEEDED}
            made.end(zombie.name)
            made.end(healthy.name)
        assert_clean_end(made, ids)


def is_stopped(part: Part) -> bool:
    return Path(f"/proc/{part.pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"


def wake(part: Part, *, refused: int) -> bool:
    """Let it go on, again and again: each of its results stops it once more. True when it knows what it has lost."""
    part.process.signal(signal.SIGCONT)
    log = part.process.log.read_text()
    return log.count('"job.lost"') + log.count('"job.refused"') >= refused


def everything(made: Deployment) -> dict[str, list[Any]]:
    """Every row that an attempt could write."""

    def rows(table: Table) -> list[Any]:
        with made.database.read() as connection:
            return [tuple(row) for row in connection.execute(select(table).order_by(*table.primary_key.columns))]

    return {table.name: rows(table) for table in (jobs, attempts, images, job_events)}


def test_a_sigterm_inside_the_commit_of_each_result_costs_no_try_and_ends_with_0(tmp_path: Path) -> None:
    with backend(tmp_path, workers=0, **SLOW) as made:
        ids = submit_many(made, 8)
        worker = made.start("worker", once="worker.in_commit:sigterm", DARKROOM_DRAIN_SECONDS="30")
        assert worker.process.wait() == 0, worker.process.log.read_text()
        assert_drained(made, ids)
        assert JobState.SUCCEEDED in states_of(made.database, ids).values()
        made.start("worker")
        until_all_over(made)
        assert tries_of(made.database, ids) == {1}
        assert_clean_end(made, ids)


@pytest.mark.parametrize("grace", ["30", "0"])
def test_five_sigterms_with_eight_jobs_in_flight_lose_none_and_spend_no_try(tmp_path: Path, grace: str) -> None:
    with backend(tmp_path, workers=0, **SLOW) as made:
        ids = submit_many(made, 8, num_inference_steps=20, effective_steps=20)
        worker = made.start("worker", DARKROOM_DRAIN_SECONDS=grace)
        eventually(lambda: is_denoising(made, worker), what="the first step")
        for _ in range(5):
            worker.process.signal(signal.SIGTERM)
        assert worker.process.wait() == 0, worker.process.log.read_text()
        assert_drained(made, ids)
        made.start("worker")
        until_all_over(made)
        assert set(states_of(made.database, ids).values()) == {JobState.SUCCEEDED}
        assert tries_of(made.database, ids) == {1}
        assert_clean_end(made, ids)


def assert_drained(made: Deployment, ids: list[str]) -> None:
    """Each job is done or waits with its try given back."""
    facts = read_facts(made.database)
    for job_id in ids:
        job = facts.jobs[job_id]
        assert (job.state, job.tries) in {(JobState.SUCCEEDED, 1), (JobState.QUEUED, 0)}


@pytest.mark.parametrize("role", ["worker", "launcher"])
@pytest.mark.parametrize("is_full", [False, pytest.param(True, marks=FULL)])
def test_a_job_that_kills_its_process_every_time_is_poisoned_and_its_seven_neighbours_succeed(
    tmp_path: Path, is_full: bool, role: Role
) -> None:
    with backend(tmp_path, workers=0, DARKROOM_STUB_STEP_SECONDS="0.05") as made:
        neighbours = submit_many(made, 7)
        culprit = submit(made.database, params={"prompt": DEADLY_PROMPT}).id
        for _ in range(1 + is_full):
            made.start(role)
        with made.keep_alive():
            if is_full:
                eventually(lambda: not unfinished(made.database), seconds=120, what="the end, delays included")
            else:
                until_all_over(made)
        assert set(states_of(made.database, neighbours).values()) == {JobState.SUCCEEDED}
        facts = read_facts(made.database)
        row = facts.jobs[culprit]
        assert (row.state, row.error["code"], row.solo_crashes) == (JobState.FAILED, "poisoned", 2)
        assert outcomes_of(made, culprit) == [Outcome.LOST] * row.fence
        assert all(facts.jobs[job_id].solo_crashes == 0 for job_id in neighbours)
        assert_clean_end(made, [*neighbours, culprit])


def test_a_job_whose_worker_is_killed_from_outside_twice_while_it_is_alone_is_not_poisoned(tmp_path: Path) -> None:
    with backend(tmp_path, workers=0, **SLOW) as made:
        (job_id,) = submit_many(made, 1, num_inference_steps=30, effective_steps=30)
        made.start("launcher")
        for count in (1, 2):
            eventually(lambda count=count: look_at(made.database, job_id).attempt == count, what="the next attempt")
            os.kill(holder_of(made, job_id), signal.SIGKILL)
        until_all_over(made)
        row = read_facts(made.database).jobs[job_id]
        assert (row.state, row.solo_crashes) == (JobState.SUCCEEDED, 0)
        assert outcomes_of(made, job_id) == [Outcome.LOST, Outcome.LOST, Outcome.SUCCEEDED]
        assert_clean_end(made, [job_id])


def holder_of(made: Deployment, job_id: str) -> int:
    """The process id of the worker that holds this job."""
    with made.database.read() as connection:
        mine = select(workers.c.pid).join(jobs, jobs.c.worker_id == workers.c.id).where(jobs.c.id == job_id)
        return int(connection.execute(mine).scalar_one())
