"""The sink on a real database: when a job is concluded and how, what may wait and what never does."""

import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import pytest
from PIL import Image
from sqlalchemy import select

from common.db import chains, claims
from common.db.engine import Database
from common.db.tables import attempts, images, jobs
from common.domain.capabilities import Task
from common.domain.job import ClaimedJob
from common.storage.port import StoreUnavailable
from tests.making import PARAMS, claim, enlist, submit
from tests.waiting import wait_until
from worker import store_access
from worker.engine.frames import next_frame, prepare_frames
from worker.engine.port import Failed, Finished, FrameRef, Left, Prepared
from worker.results import ResultWriter
from worker.roster import HeldJob, Roster
from worker.sink import Joined, Sink
from worker.storing import Developed

SECONDS = 20
THREADS = 2
ROOM = THREADS + 32
PICTURE, GREY = (Image.new(mode, (64, 64)) for mode in ("RGB", "L"))  # grey pictures are not encoded
CHAIN: dict[str, Any] = {"then": (replace(PARAMS, task=Task.IMG2IMG, strength=1.0),)}


class Studio:
    """A sink on a thread of its own and real claims; the test plays the part of the device and of the object store."""

    def __init__(self, database: Database) -> None:
        self.database, self.roster, self.cancelled = database, Roster(), list[str]()
        self.is_storing = threading.Event()
        self.before_put: Callable[[str], object] = lambda key: None
        self.sink = Sink(
            database=database,
            results=ResultWriter(self),  # type: ignore[arg-type]
            roster=self.roster,
            device="cpu",
            cancel=self.cancelled.append,
            threads=THREADS,
        )
        self.thread = threading.Thread(target=self.sink.run, daemon=True)
        self.thread.start()

    def put(self, key: str, data: bytes, content_type: str) -> None:
        """The object store as results see it."""
        self.is_storing.set()
        self.before_put(key)

    def hold_store(self) -> threading.Semaphore:
        """From now on every object waits to be let through."""
        gate = threading.Semaphore(0)
        self.before_put = lambda key: gate.acquire(timeout=SECONDS)
        return gate

    def claim(self, *, max_tries: int = 3, **params: Any) -> ClaimedJob:
        submit(self.database, max_tries=max_tries, params=params)
        (job,) = claim(self.database, enlist(self.database))
        assert self.roster.add(job)
        return job

    def begin(self, **wishes: Any) -> Sequence[Prepared]:
        """The frames of a job that joined the device."""
        frames = prepare_frames(self.claim(**wishes), {}).frames
        self.join(frames)
        return frames

    def join(self, frames: Sequence[Prepared]) -> None:
        assert self.roster.make_ready(frames)
        assert all(self.roster.take_ready(frame, to_join=True) for frame in frames)
        self.sink.put(Joined(tuple(frame.ref for frame in frames)))

    def develop(self, frame: Prepared, picture: Image.Image = PICTURE) -> None:
        """What the device thread does with a frame that has run its pass."""
        if frame.number < len(frame.job.params.then):
            self.roster.expect_next(frame.ref)
        self.sink.put(Developed(frame, Finished(frame.ref, picture, {}, number=frame.number)))

    def following(self, frame: Prepared) -> Prepared:
        """The frame in its next pass, once it is ready."""
        wait_until(self.roster.ready_count, what="the next pass")
        (ready,) = self.roster.ready()
        assert ready.ref == frame.ref
        assert self.roster.take_ready(ready, to_join=True)
        return ready

    def keep(self, job: ClaimedJob, index: int = 0, picture: Image.Image = PICTURE) -> None:
        """What the claimer does with a picture of an earlier attempt."""
        self.sink.put(Finished(FrameRef(job.id, job.fence, index), picture, {}, number=0, is_stored=True))

    def held(self, job: ClaimedJob) -> HeldJob | None:
        return self.roster.get(FrameRef(job.id, job.fence, 0))

    def row(self, job: ClaimedJob) -> Any:
        with self.database.read() as connection:
            return connection.execute(select(jobs).where(jobs.c.id == job.id)).one()

    def conclusion(self, job: ClaimedJob) -> tuple[str, str | None, int]:
        """Once the job is concluded: how its attempt ended, with which code, and how many pictures it has."""
        wait_until(lambda: self.held(job) is None, what="the conclusion")
        with self.database.read() as connection:
            ended = select(attempts.c.outcome, attempts.c.error_code).where(attempts.c.job_id == job.id)
            made = connection.execute(select(images.c.key).where(images.c.job_id == job.id)).all()
            return (*connection.execute(ended).one(), len(made))

    def steps_done(self, job: ClaimedJob) -> int:
        with self.database.read() as connection:
            return len(chains.done_steps(connection, [job.id]).get(job.id, ()))

    def settle(self) -> None:
        """Return when the sink has worked off every event before this one."""
        job = self.claim()
        self.sink.put(Joined((FrameRef(job.id, job.fence, 0),)))
        wait_until(lambda: (held := self.held(job)) and held.has_joined, what="a sign of the sink")


@pytest.fixture
def studio(sqlite_database: Database, monkeypatch: pytest.MonkeyPatch) -> Iterator[Studio]:
    monkeypatch.setattr(store_access, "FIRST_SECONDS", 0.0)
    made = Studio(sqlite_database)
    yield made
    made.sink.abandon()
    made.sink.close()
    made.thread.join(SECONDS)
    assert not made.thread.is_alive()


def test_what_the_device_did_not_let_go_of_goes_back_with_its_try_at_the_end_of_a_drain(studio: Studio) -> None:
    (frame,) = studio.begin()
    studio.sink.put(Joined((frame.ref,)))
    studio.sink.close()
    studio.thread.join(SECONDS)
    studio.sink.release_rest()
    with studio.database.read() as connection:
        row = connection.execute(select(jobs).where(jobs.c.id == frame.ref.job_id)).one()
    assert (row.state, row.tries, row.held, row.solo) == ("queued", 0, None, False)


def test_a_picture_waits_while_the_sink_is_far_behind_and_nothing_else_does(studio: Studio) -> None:
    gate, has_put = studio.hold_store(), threading.Event()
    (bystander,), frames = studio.begin(), studio.begin(num_images=ROOM + 1)
    for frame in frames[:ROOM]:
        studio.develop(frame)
    late = threading.Thread(target=lambda: (studio.develop(frames[ROOM]), has_put.set()), daemon=True)
    late.start()
    assert not has_put.wait(0.05)
    studio.sink.put(Failed(bystander.ref, ValueError("broken")))
    assert studio.conclusion(bystander.job) == ("retried", "internal", 0)
    studio.settle()
    assert not has_put.is_set()
    gate.release()
    assert has_put.wait(SECONDS)
    gate.release(ROOM)
    assert studio.conclusion(frames[0].job) == ("succeeded", None, ROOM + 1)


def test_closing_lets_everything_that_was_put_be_concluded(studio: Studio) -> None:
    gate, begun = studio.hold_store(), [*studio.begin(num_images=3), *studio.begin(num_images=3)]
    for frame in begun:
        studio.develop(frame)
    studio.sink.close()
    gate.release(len(begun))
    studio.thread.join(SECONDS)
    assert not studio.thread.is_alive()
    assert {studio.conclusion(frame.job) for frame in begun} == {("succeeded", None, 3)}


@pytest.mark.parametrize("first", ["steps", "results"])
def test_a_job_is_concluded_when_pictures_and_steps_are_there_whichever_comes_first(studio: Studio, first: str) -> None:
    early, late = threading.Semaphore(0), threading.Semaphore(0)
    studio.before_put = lambda key: (early if key.startswith(first) else late).acquire(timeout=SECONDS)
    (frame,) = studio.begin(**CHAIN)
    studio.develop(frame)
    studio.develop(studio.following(frame))
    held = studio.held(frame.job)
    assert held is not None
    early.release()
    wait_until(lambda: studio.steps_done(frame.job) if first == "steps" else held.results, what=first)
    studio.settle()
    assert studio.held(frame.job) is held
    late.release()
    assert studio.conclusion(frame.job) == ("succeeded", None, 1)
    assert studio.steps_done(frame.job) == 1


def test_a_failed_frame_waits_for_the_picture_of_its_neighbour_that_is_being_stored(studio: Studio) -> None:
    gate = studio.hold_store()
    one, other = studio.begin(num_images=2)
    studio.develop(one)
    assert studio.is_storing.wait(SECONDS)
    studio.sink.put(Failed(other.ref, ValueError("broken")))
    studio.settle()
    assert studio.cancelled == [one.job.id]
    assert studio.held(one.job)
    gate.release()
    assert studio.conclusion(one.job) == ("retried", "internal", 0)


def test_pictures_of_earlier_attempts_do_not_conclude_a_job_that_is_not_prepared(studio: Studio) -> None:
    job = studio.claim(keep="all", **CHAIN)
    studio.keep(job)
    wait_until(lambda: (held := studio.held(job)) and held.results, what="the kept picture")
    studio.settle()
    frame = next_frame(prepare_frames(job, {}).frames[0], Finished(FrameRef(job.id, job.fence, 0), PICTURE, {}))
    studio.join([frame])
    studio.develop(frame)
    assert studio.conclusion(job) == ("succeeded", None, 2)


def test_a_job_one_of_whose_earlier_pictures_cannot_be_stored_is_concluded_when_the_others_are(studio: Studio) -> None:
    gate = studio.hold_store()
    job = studio.claim(num_images=2, keep="all", **CHAIN)
    studio.keep(job, 0)
    assert studio.is_storing.wait(SECONDS)
    studio.keep(job, 1, GREY)
    wait_until(lambda: studio.cancelled, what="the failure")
    assert not studio.roster.make_ready(prepare_frames(job, {}).frames)
    studio.sink.put(Left(FrameRef(job.id, job.fence, 0), parked=False))
    studio.settle()
    assert studio.held(job)
    gate.release()
    assert studio.conclusion(job) == ("retried", "internal", 0)


def test_a_job_that_is_released_unprepared_waits_for_pictures_of_its_earlier_attempts(studio: Studio) -> None:
    gate = studio.hold_store()
    job = studio.claim(keep="all", **CHAIN)
    studio.keep(job)
    studio.sink.put(Left(FrameRef(job.id, job.fence, 0), parked=True))
    studio.settle()
    assert studio.held(job)
    gate.release()
    assert studio.conclusion(job) == ("released", "released", 0)
    assert studio.row(job).tries == 0


def test_an_earlier_picture_that_cannot_be_stored_waits_for_the_frame_on_the_device(studio: Studio) -> None:
    (frame,) = studio.begin(keep="all", **CHAIN)
    studio.keep(frame.job, 0, GREY)
    wait_until(lambda: studio.cancelled, what="the failure")
    studio.settle()
    assert studio.held(frame.job)
    studio.sink.put(Left(frame.ref, parked=False))
    assert studio.conclusion(frame.job) == ("retried", "internal", 0)


@pytest.mark.parametrize(("max_tries", "outcome"), [(3, "retried"), (1, "failed")])
def test_a_store_that_is_down_for_good_hands_the_job_back_as_long_as_it_has_tries(
    studio: Studio, max_tries: int, outcome: str
) -> None:
    def refuse(key: str) -> None:
        raise StoreUnavailable(key, "connection refused")

    studio.before_put = refuse
    (frame,) = studio.begin(max_tries=max_tries)
    studio.develop(frame)
    assert studio.conclusion(frame.job) == (outcome, "store_failed", 0)
    assert studio.row(frame.job).held == ("delayed" if outcome == "retried" else None)


def test_a_job_that_is_cancelled_or_lost_while_its_picture_is_stored_is_concluded_without_it(studio: Studio) -> None:
    gate = studio.hold_store()
    (cancelled,), (lost,) = studio.begin(), studio.begin()
    for frame, wish in ((cancelled, "is_cancel_wished"), (lost, "is_lost")):
        studio.develop(frame)
        setattr(studio.held(frame.job), wish, True)
    gate.release(2)
    assert studio.conclusion(cancelled.job) == ("canceled", None, 0)
    assert studio.conclusion(lost.job) == (None, None, 0)  # another holds it and says how it ends


def test_a_parked_frame_gives_the_try_back_and_leaves_its_last_step(studio: Studio) -> None:
    gate = studio.hold_store()
    (frame,) = studio.begin(**CHAIN)
    studio.develop(frame)
    studio.sink.put(Left(studio.following(frame).ref, parked=True))
    studio.settle()
    assert studio.held(frame.job)
    gate.release()
    assert studio.conclusion(frame.job) == ("released", "released", 0)
    assert (studio.row(frame.job).tries, studio.steps_done(frame.job)) == (0, 1)


def test_a_job_that_is_not_ours_any_more_when_it_joins_or_hands_on_leaves_the_device(studio: Studio) -> None:
    joining, (chained,) = studio.claim(), studio.begin(**CHAIN)
    studio.settle()
    with studio.database.write() as connection:
        for job in (joining, chained.job):
            assert claims.fail(connection, job.id, job.fence, {"code": "internal"})
    studio.join(prepare_frames(joining, {}).frames)
    studio.develop(chained)
    wait_until(lambda: set(studio.cancelled) == {joining.id, chained.job.id}, what="both cancels")
    assert all(held.is_lost for held in map(studio.held, (joining, chained.job)) if held)


def test_a_step_that_cannot_be_recorded_fails_its_job_only(studio: Studio, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chains, "record_step", lambda *_: [].pop())
    (fine,), (frame,) = studio.begin(), studio.begin(**CHAIN)
    studio.develop(frame)
    studio.sink.put(Left(studio.following(frame).ref, parked=False))
    studio.develop(fine)
    assert studio.conclusion(frame.job) == ("retried", "internal", 0)
    assert studio.conclusion(fine.job) == ("succeeded", None, 1)
