"""The device thread against races that real life has: a cancel while a model loads, a frame that will not join."""

import threading
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from common.domain.catalogue import Catalogue, ModelCard, Source, Task
from common.domain.job import ClaimedJob
from tests.making import PARAMS
from worker.engine.building import Capacity
from worker.engine.frames import next_frame, prepare_frames
from worker.engine.port import DeviceLost, Emit, Failed, Finished, FrameRef, Left
from worker.engine.stub_engine import StubEngine, picture_of
from worker.executor import Executor
from worker.pace import Pace
from worker.residency import Residency
from worker.roster import Roster
from worker.sink import Joined
from worker.storing import Developed
from worker.watchdog import Watchdog

NOW = datetime.now(UTC)
CARD = ModelCard("stub", "Stub", "stub", Source(bundled="stub"), frozenset({Task.TXT2IMG}), 64, "none")


class RecordingSink:
    """Notes events; what is to be stored is completed and made ready for its next pass, as the real one does."""

    def __init__(self, roster: Roster) -> None:
        self.events: list[Any] = []
        self.roster = roster
        self.changed = threading.Event()

    def put(self, event: Any) -> None:
        if isinstance(event, Developed):
            if event.frame.hands_on == "pixels":
                self.roster.make_next_ready(next_frame(event.frame, event.made))
            event = event.made
        self.events.append(event)
        self.changed.set()

    def ends(self) -> dict[str, type]:
        return {event.ref.job_id: type(event) for event in self.events if not isinstance(event, Joined)}


class Device:
    """An executor on a thread of its own, whose model loads as soon as `may_load` is set."""

    def __init__(self) -> None:
        self.roster = Roster()
        self.sink = RecordingSink(self.roster)
        self.is_loading, self.may_load = threading.Event(), threading.Event()
        self.executor = Executor(
            catalogue=Catalogue({"stub": CARD}),
            residency=Residency(self._build, budget_bytes=1),
            roster=self.roster,
            capacity=Capacity(8, has_late_join=True),
            pace=Pace(lambda: 0.0),
            sink=self.sink,  # type: ignore[arg-type]
            watchdog=Watchdog(60, lambda: 0.0),
            wake_claimer=lambda: None,
        )
        self.thread = threading.Thread(target=self.executor.run, daemon=True)

    def _build(self, card: ModelCard) -> StubEngine:
        self.is_loading.set()
        assert self.may_load.wait(10)
        return StubEngine()

    def add(self, name: str, **params: Any) -> ClaimedJob:
        job = ClaimedJob(name, "default", 1, 1, 3, False, 0, NOW, NOW, replace(PARAMS, **params), {})
        assert self.roster.add(job)
        self.roster.make_ready(prepare_frames(job, {}).frames)
        return job

    def finish(self) -> None:
        self.executor.stop()
        self.thread.join(10)
        assert not self.thread.is_alive()


@pytest.fixture
def device() -> Iterator[Device]:
    made = Device()
    yield made
    made.may_load.set()
    made.executor.park()
    made.executor.stop()
    if made.thread.ident is not None:
        made.thread.join(10)


def test_a_job_cancelled_while_its_model_loads_leaves_and_the_next_one_runs(device: Device) -> None:
    device.add("a")
    device.add("b")
    device.thread.start()
    assert device.is_loading.wait(10)
    assert device.roster.take_unjoined("a") == [FrameRef("a", 1, 0)]
    device.may_load.set()
    device.finish()
    assert device.sink.ends() == {"b": Finished}


def test_an_unwanted_frame_leaves_without_touching_the_device(device: Device) -> None:
    device.add("a")
    for held in device.roster.held():
        held.is_cancel_wished = True
    device.thread.start()
    device.finish()
    assert device.sink.ends() == {"a": Left}
    assert not device.is_loading.is_set()


def test_a_model_that_left_the_catalogue_fails_its_job_and_nothing_else(device: Device) -> None:
    device.may_load.set()
    device.add("lost", model="gone")
    device.add("fine")
    device.thread.start()
    device.finish()
    assert device.sink.ends() == {"lost": Failed, "fine": Finished}


def test_what_joins_together_is_told_together(device: Device) -> None:
    device.may_load.set()
    device.add("a", num_images=2)
    device.add("b")
    device.thread.start()
    device.finish()
    (joined,) = [event for event in device.sink.events if isinstance(event, Joined)]
    assert {ref.job_id for ref in joined.refs} == {"a", "b"}


def test_frames_of_a_chain_run_all_passes_before_who_waits(device: Device) -> None:
    later = replace(PARAMS, task=Task.IMG2IMG, strength=1.0, refines=False)
    device.may_load.set()
    device.add("chain", num_images=2, then=(later, later))
    device.add("other")
    device.thread.start()
    device.finish()
    ended = [event for event in device.sink.events if isinstance(event, Finished)]
    assert [event.number for event in ended if event.ref.job_id == "chain"] == [0, 0, 1, 1, 2, 2]
    steps = device.roster.get(FrameRef("chain", 1, 0))
    assert steps is not None
    assert sum(steps.steps_done.values()) == steps.steps == 24


def test_a_lost_device_takes_the_frames_between_two_passes_with_it(device: Device) -> None:
    """One frame of a deterministic job is ready for its second pass when the other takes the device down."""

    class Dying(StubEngine):
        def tick(self, emit: Emit) -> None:
            first, _ = frames
            emit(Finished(first.ref, picture_of(first), {}))
            raise DeviceLost("ECC error")

    device._build = lambda card: Dying()  # type: ignore[method-assign]
    device.executor._residency = Residency(device._build, budget_bytes=1)
    later = replace(PARAMS, task=Task.IMG2IMG, strength=1.0, refines=False)
    job = device.add("chain", num_images=2, then=(later,))
    frames = prepare_frames(job, {}).frames
    with pytest.raises(DeviceLost) as caught:
        device.executor.run()
    failed = [event.ref.index for event in device.sink.events if isinstance(event, Failed)]
    assert sorted(failed) == [0, 1]
    assert caught.value.alone
    assert not device.roster.has_frames()


def test_a_device_that_is_lost_while_a_model_loads_ends_the_process_and_blames_no_job(device: Device) -> None:
    def build(card: ModelCard) -> StubEngine:
        raise RuntimeError("CUDA error: device-side assert triggered")

    device.executor._residency = Residency(build, budget_bytes=1)
    device.add("a")
    with pytest.raises(DeviceLost):
        device.executor.run()
    assert device.sink.events == []
    assert device.roster.take_unjoined() == [FrameRef("a", 1, 0)]
