"""The claimer on a real database: how much it takes and when, and what it makes of it on several threads."""

import hashlib
import threading
from collections.abc import Callable, Iterator
from queue import SimpleQueue
from typing import Any

import pytest
from sqlalchemy import select

from common.db.engine import Database
from common.db.tables import jobs
from common.domain.errors import JobFailure, Unavailable
from common.domain.fairness import Lane
from common.domain.job import ClaimedJob, DoneStep, InputRef
from common.settings import Settings
from common.storage.port import ObjectMissing
from tests.making import PARAMS, enlist, submit
from tests.waiting import wait_until
from worker.claimer import Claimer
from worker.engine.frames import Start, prepare_frames, step_role
from worker.engine.port import Finished, FrameRef, Left
from worker.roster import Roster

SECONDS = 20
NOBODY = 3600.0

SHA_OF_STEP = hashlib.sha256(b"step").hexdigest()


class Store:
    """An object store with these objects."""

    def __init__(self, **objects: bytes) -> None:
        self.objects = objects

    def get(self, key: str) -> bytes:
        if key not in self.objects:
            raise ObjectMissing(key)
        return self.objects[key]


class Desk:
    """A claimer and all that it talks to; `room` is what the device wants, `may_park` whether it would park."""

    def __init__(self, database: Database) -> None:
        self.database, self.roster, self.store = database, Roster(), Store()
        self.room, self.may_park = 8, False
        self.resident: tuple[str, ...] = ()
        self.asked: SimpleQueue[int] = SimpleQueue()
        self.prepare: Callable[[ClaimedJob, dict[str, bytes]], Start] = prepare_frames
        self.failed: dict[str, Exception] = {}
        self.emitted: list[Finished | Left] = []
        self.claimer = Claimer(
            settings=Settings(prepare_threads=3, poll_seconds=NOBODY),
            worker_id=enlist(database),
            device="cpu",
            database=database,
            store=self.store,  # type: ignore[arg-type]
            roster=self.roster,
            wanted=self._wanted,
            may_park=lambda: self.may_park,
            prepare=lambda job, inputs: self.prepare(job, inputs),
            on_failure=lambda job, error: self.failed.update({job.id: error}),
            emit=self.emitted.append,
            resident=lambda: self.resident,
        )

    def _wanted(self) -> int:
        self.asked.put(self.room)
        return self.room

    def held(self) -> list[str]:
        return [held.job.id for held in self.roster.held()]

    def ready(self) -> list[str]:
        return [frame.ref.job_id for frame in self.roster.ready()]

    def row(self, job_id: str) -> Any:
        with self.database.read() as connection:
            return connection.execute(select(jobs).where(jobs.c.id == job_id)).one()


@pytest.fixture
def desk(sqlite_database: Database) -> Desk:
    return Desk(sqlite_database)


@pytest.fixture
def running(desk: Desk) -> Iterator[Desk]:
    """The desk with its claimer on a thread, once it has found nothing to claim."""
    thread = threading.Thread(target=desk.claimer.run, daemon=True)
    thread.start()
    assert desk.asked.get(timeout=SECONDS)
    wait_until(lambda: desk.claimer._is_dry, what="the first look")
    yield desk
    desk.claimer.stop()
    desk.claimer.wake()
    thread.join(SECONDS)
    assert not thread.is_alive()


def test_as_many_jobs_are_claimed_as_are_wanted(desk: Desk) -> None:
    made = [submit(desk.database).id for _ in range(5)]
    desk.room = 3
    assert desk.claimer.run_once() == 3
    assert desk.held() == desk.ready() == made[:3]
    desk.room = 8
    assert desk.claimer.run_once() == 2
    assert desk.ready() == made


def test_a_loaded_model_is_claimed_before_the_first_in_order(desk: Desk) -> None:
    first = submit(desk.database)
    second = submit(desk.database, params={"model": "loaded"})
    desk.room, desk.resident = 1, ("loaded",)
    desk.claimer.run_once()
    assert desk.ready() == [second.id]
    desk.claimer.run_once()
    assert desk.ready() == [second.id, first.id]


def test_nothing_is_claimed_when_nothing_is_wanted_and_nothing_may_be_parked(desk: Desk) -> None:
    submit(desk.database, lane=Lane.HIGH)
    desk.room = 0
    assert desk.claimer.run_once() == 0
    assert desk.held() == []


def test_a_full_device_that_may_park_claims_urgent_jobs_only(desk: Desk) -> None:
    submit(desk.database)
    urgent = submit(desk.database, lane=Lane.HIGH)
    desk.room, desk.may_park = -1, True
    assert desk.claimer.run_once() == 1
    assert desk.ready() == [urgent.id]
    assert desk.claimer.run_once() == 0


def test_while_a_job_that_must_run_alone_is_held_nothing_is_claimed(desk: Desk) -> None:
    first = submit(desk.database)
    with desk.database.write() as connection:
        connection.execute(jobs.update().values(solo=True))
    assert desk.claimer.run_once() == 1
    submit(desk.database)
    assert desk.claimer.run_once() == 0
    assert desk.held() == [first.id]


def test_room_rings_no_bell_after_a_look_that_found_nothing_until_another_bell(desk: Desk) -> None:
    assert desk.claimer.run_once() == 0
    desk.claimer.wake_unless_dry()
    assert not desk.claimer.bell.is_set()
    submit(desk.database)
    desk.claimer.wake()
    assert desk.claimer.bell.is_set()
    desk.claimer.bell.clear()
    assert desk.claimer.run_once() == 1
    desk.claimer.wake_unless_dry()
    assert desk.claimer.bell.is_set()


def test_a_look_for_urgent_jobs_says_nothing_of_the_others(desk: Desk) -> None:
    submit(desk.database)
    desk.room, desk.may_park = 0, True
    assert desk.claimer.run_once() == 0
    desk.claimer.wake_unless_dry()
    assert desk.claimer.bell.is_set()


def test_what_a_bell_rang_for_while_there_was_no_room_is_claimed_as_soon_as_there_is(running: Desk) -> None:
    running.room = 0
    job = submit(running.database)
    running.claimer.wake()
    assert running.asked.get(timeout=SECONDS) == 0
    running.room = 1
    running.claimer.wake_unless_dry()
    wait_until(running.ready, what="the claim")
    assert running.ready() == [job.id]


def test_a_database_that_is_away_or_an_error_does_not_end_the_claimer(running: Desk) -> None:
    troubles = [ValueError("a bug"), Unavailable("away")]

    def wanted() -> int:
        if troubles:
            raise troubles.pop()
        return 1

    running.claimer._wanted = wanted
    job = submit(running.database)
    for left in (1, 0):
        running.claimer.wake()
        wait_until(lambda left=left: len(troubles) == left)
    running.claimer.wake()
    wait_until(running.ready, what="the claim")
    assert running.ready() == [job.id]


def test_several_jobs_are_prepared_at_once_and_become_ready_in_their_order(desk: Desk) -> None:
    barrier, order = threading.Barrier(3, timeout=SECONDS), []
    made = [submit(desk.database).id for _ in range(3)]
    behind = {first: threading.Event() for first in made}

    def prepare(job: ClaimedJob, inputs: dict[str, bytes]) -> Start:
        barrier.wait()
        if job.id != made[-1]:
            assert behind[made[made.index(job.id) + 1]].wait(SECONDS)
        order.append(job.id)
        behind[job.id].set()
        return prepare_frames(job, inputs)

    desk.prepare = prepare
    assert desk.claimer.run_once() == 3
    assert order == made[::-1]
    assert desk.ready() == made


def test_a_job_that_cannot_be_prepared_fails_and_the_others_are_ready(desk: Desk) -> None:
    made = [submit(desk.database).id for _ in range(3)]

    def prepare(job: ClaimedJob, inputs: dict[str, bytes]) -> Start:
        if job.id == made[1]:
            raise JobFailure("no picture", code="image_unreadable")
        return prepare_frames(job, inputs)

    desk.prepare = prepare
    assert desk.claimer.run_once() == 3
    assert [(job_id, error.code) for job_id, error in desk.failed.items()] == [(made[1], "image_unreadable")]
    assert desk.ready() == [made[0], made[2]]


def test_inputs_are_fetched_and_a_missing_one_fails_the_job_but_a_missing_step_does_not(desk: Desk) -> None:
    reference = InputRef("inputs/image", hashlib.sha256(b"picture").hexdigest(), 7, 64, 64)
    wishes = {
        "inputs": {"image": reference},
        "done_steps": (DoneStep(0, "steps/0", SHA_OF_STEP), DoneStep(1, "steps/1", SHA_OF_STEP)),
    }
    job = ClaimedJob("job", "default", 1, 1, 3, False, 0, *(None,) * 2, PARAMS, **wishes)  # type: ignore[arg-type]
    failed = desk.claimer._prepared(job)
    assert isinstance(failed, JobFailure)
    assert failed.code == "input_missing"
    desk.store.objects = {"inputs/image": b"picture", "steps/1": b"step"}
    desk.prepare = lambda job, inputs: inputs  # type: ignore[return-value, assignment]
    assert desk.claimer._prepared(job) == {"image": b"picture", step_role(1): b"step"}
    desk.store.objects["steps/1"] = b"altered"  # it is run again
    assert desk.claimer._prepared(job) == {"image": b"picture"}
    desk.store.objects["inputs/image"] = b"another"
    altered = desk.claimer._prepared(job)
    assert isinstance(altered, JobFailure)
    assert altered.code == "input_missing"


def test_a_stop_leaves_claimed_jobs_held_and_unprepared(desk: Desk) -> None:
    made = [submit(desk.database).id for _ in range(2)]
    desk.claimer._wanted = lambda: (desk.claimer.stop(), 8)[1]
    assert desk.claimer.run_once() == 2
    assert desk.held() == made
    assert not any(held.is_prepared for held in desk.roster.held())
    assert (desk.ready(), desk.failed, desk.emitted) == ([], {}, [])
    assert [ref.job_id for ref in desk.roster.take_unjoined()] == made  # what the drain releases
    submit(desk.database)
    assert desk.claimer.run_once() == 0


def test_a_frame_that_the_device_has_taken_is_released_by_nobody_else(desk: Desk) -> None:
    submit(desk.database)
    desk.claimer.run_once()
    (frame,) = desk.roster.ready()
    assert desk.roster.take_ready(frame, to_join=True)
    assert desk.roster.take_unjoined() == []


def test_what_an_earlier_attempt_kept_goes_the_way_of_results_before_the_frames_are_ready(desk: Desk) -> None:
    job = submit(desk.database)
    kept = Finished(FrameRef(job.id, 1, 0), None, {}, is_stored=True)
    desk.prepare = lambda job, inputs: Start(prepare_frames(job, inputs).frames, [kept])
    ready_then: list[int] = []
    desk.claimer._emit = lambda event: ready_then.append(desk.roster.ready_count())
    desk.claimer.run_once()
    assert (ready_then, desk.ready()) == ([0], [job.id])


def test_a_job_that_nobody_wants_any_more_when_it_is_prepared_leaves(desk: Desk) -> None:
    job = submit(desk.database)

    def prepare(job: ClaimedJob, inputs: dict[str, bytes]) -> Start:
        desk.roster.held()[0].is_cancel_wished = True
        return prepare_frames(job, inputs)

    desk.prepare = prepare
    desk.claimer.run_once()
    assert desk.ready() == []
    assert desk.emitted == [Left(FrameRef(job.id, 1, 0), parked=False)]


def test_a_job_whose_older_attempt_is_still_here_goes_back_with_its_try(desk: Desk) -> None:
    job = submit(desk.database)
    older = ClaimedJob(job.id, "default", 0, 1, 3, False, 0, *(None,) * 2, PARAMS, {})  # type: ignore[arg-type]
    assert desk.roster.add(older)
    other = submit(desk.database)
    assert desk.claimer.run_once() == 2
    assert desk.ready() == [other.id]
    row = desk.row(job.id)
    assert (row.state, row.held, row.tries, row.fence) == ("queued", "delayed", 0, 1)
