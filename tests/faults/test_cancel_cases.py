"""Case 24 on the rows: a cancel before, after and at the very moment of whatever else may happen to a job."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import pytest
from sqlalchemy import update

from common.db import claims
from common.db.engine import Database
from common.db.jobs import cancel_job
from common.db.tables import jobs
from common.db.types import after_now
from common.domain.job import ClaimedJob
from common.domain.lifecycle import JobState
from common.domain.retry import TryAgain
from common.domain.snapshot import JobSnapshot
from common.queue.doorbell import NoDoorbell
from common.settings import Settings
from sweeper.main import Sweeper
from tests.making import claim, enlist, make_image, submit
from tests.processes.harness import look_at

Act = Callable[[Database, ClaimedJob], object]
ROUNDS = 12


def write(database: Database, act: Callable[..., object], *arguments: Any) -> None:
    with database.write() as connection:
        act(connection, *arguments)


def lose(database: Database, _job: ClaimedJob) -> None:
    """Its worker is gone for a lease, and the sweeper comes."""
    with database.write() as connection:
        connection.execute(update(jobs).where(jobs.c.state == JobState.RUNNING).values(lease_until=after_now(-1)))
    sweep(database)


def sweep(database: Database) -> None:
    Sweeper(Settings(_env_file=None), database, NoDoorbell()).run_once()


# What a job that reached the device may meet, and where each alone leads it.
MEETINGS: dict[str, tuple[Act, JobState]] = {
    "a success": (
        lambda database, job: write(database, claims.finish, job, [make_image(job)], {}),
        JobState.SUCCEEDED,
    ),
    "a failure": (
        lambda database, job: write(database, claims.fail, job.id, job.fence, {"code": "internal"}),
        JobState.FAILED,
    ),
    "a retry": (
        lambda database, job: write(database, claims.hand_back, job.id, job.fence, TryAgain(60.0), "internal"),
        JobState.QUEUED,
    ),
    "a drain": (
        lambda database, job: write(database, claims.hand_back, job.id, job.fence, TryAgain(refund=True)),
        JobState.QUEUED,
    ),
    "a rescue": (lose, JobState.QUEUED),
}


def cancel(database: Database, job_id: str) -> None:
    write(database, cancel_job, "default", job_id)


def begun(database: Database, **changes: Any) -> ClaimedJob:
    """A job on a device."""
    submit(database, **changes)
    (job,) = claim(database, enlist(database))
    write(database, claims.join, job.id, job.fence, "cpu")
    return job


def settle(database: Database, job: ClaimedJob) -> JobSnapshot:
    """The job's end: whoever still holds it lets go at the next step, as a worker that sees the wish does."""
    write(database, claims.cancel_running, job.id, job.fence)
    sweep(database)
    seen = look_at(database, job.id)
    assert seen.state.is_terminal
    assert bool(seen.images) == (seen.state is JobState.SUCCEEDED)
    return seen


def test_a_job_that_is_cancelled_before_its_claim_is_canceled_and_never_claimed(database: Database) -> None:
    for held in (None, "delayed", "paused", "intake"):
        job = submit(database)
        with database.write() as connection:
            connection.execute(update(jobs).where(jobs.c.id == job.id).values(held=held))
        cancel(database, job.id)
        assert look_at(database, job.id).state is JobState.CANCELED
        assert claim(database, enlist(database)) == []


def test_a_job_that_is_cancelled_between_claim_and_device_is_canceled_and_does_not_join(database: Database) -> None:
    submit(database)
    (job,) = claim(database, enlist(database))
    cancel(database, job.id)
    with database.write() as connection:
        assert not claims.join(connection, job.id, job.fence, "cpu")
        assert not claims.finish(connection, job, [make_image(job)], {})
    assert settle(database, job).state is JobState.CANCELED


@pytest.mark.parametrize("met", MEETINGS)
def test_a_cancel_before_what_it_meets_ends_the_job_once_and_truthfully(database: Database, met: str) -> None:
    """Only an end that the worker writes itself may still come after a wish that it has not heard."""
    act, outcome = MEETINGS[met]
    job = begun(database)
    cancel(database, job.id)
    act(database, job)
    expected = JobState.CANCELED if outcome is JobState.QUEUED else outcome
    assert look_at(database, job.id).state is expected
    assert settle(database, job).state is expected


@pytest.mark.parametrize("met", MEETINGS)
def test_a_cancel_after_what_it_meets_ends_what_is_queued_again_and_leaves_what_has_ended(
    database: Database, met: str
) -> None:
    act, outcome = MEETINGS[met]
    job = begun(database)
    act(database, job)
    cancel(database, job.id)
    expected = JobState.CANCELED if outcome is JobState.QUEUED else outcome
    assert look_at(database, job.id).state is expected
    assert settle(database, job).state is expected


def test_a_cancel_that_meets_the_rescue_of_a_last_try_is_canceled_and_not_failed(database: Database) -> None:
    job = begun(database, max_tries=1)
    cancel(database, job.id)
    lose(database, job)
    assert settle(database, job).state is JobState.CANCELED


@pytest.mark.parametrize("met", MEETINGS)
def test_a_cancel_at_the_very_moment_of_what_it_meets_ends_the_job_once(database: Database, met: str) -> None:
    act, outcome = MEETINGS[met]
    possible = {JobState.CANCELED, outcome} - {JobState.QUEUED}
    for _ in range(ROUNDS):
        job = begun(database)
        at_once(partial(cancel, database, job.id), partial(act, database, job))
        assert settle(database, job).state in possible


def test_a_cancel_at_the_very_moment_of_the_claim_is_canceled_whoever_comes_first(database: Database) -> None:
    for _ in range(ROUNDS):
        job, worker = submit(database), enlist(database)
        at_once(partial(cancel, database, job.id), partial(claim, database, worker))
        assert look_at(database, job.id).state is JobState.CANCELED
        assert not holds(database, job.id, fence=1)


def holds(database: Database, job_id: str, fence: int) -> bool:
    with database.write() as connection:
        return claims.join(connection, job_id, fence, "cpu")


def at_once(*acts: Callable[[], object]) -> None:
    """All of them from the same moment, each on its own thread; raises what one raised."""
    start = threading.Barrier(len(acts))

    def run(act: Callable[[], object]) -> None:
        start.wait()
        act()

    with ThreadPoolExecutor(len(acts)) as threads:
        for done in [threads.submit(run, act) for act in acts]:
            done.result()
