"""The device thread: who joins when, whose engine ticks, and races that real life has, like a cancel during a load."""

import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from itertools import count
from queue import SimpleQueue
from types import SimpleNamespace
from typing import Any

import pytest

from common.domain.catalogue import Catalogue, ModelCard, Source, Task
from common.domain.fairness import Lane
from common.domain.job import ClaimedJob
from tests.making import PARAMS
from worker.engine.building import Capacity
from worker.engine.frames import next_frame, prepare_frames
from worker.engine.port import DeviceLost, Emit, Failed, Finished, FrameRef, Left
from worker.engine.stub_engine import StubEngine, picture_of
from worker.executor import JOINS_PER_TICK, Executor
from worker.pace import Pace
from worker.residency import Residency
from worker.roster import Roster
from worker.sink import Joined
from worker.storing import Developed
from worker.watchdog import Watchdog

NOW = datetime.now(UTC)
CARD = ModelCard("stub", "Stub", "stub", Source(bundled="stub"), frozenset({Task.TXT2IMG}), 64, "none")
LATER = replace(PARAMS, task=Task.IMG2IMG, strength=1.0, refines=False)


class TellingEngine(StubEngine):
    """Tells before every tick whose frames are in."""

    def __init__(self, tell: Callable[[list[str]], None]) -> None:
        super().__init__(max_frames=16)
        self._tell = tell

    def tick(self, emit: Emit) -> None:
        self._tell([frame.ref.job_id for frame in self._joined])
        super().tick(emit)


class Device:
    """An executor on a thread of its own, or on the test's, and its sink, which makes frames ready for their next pass.

    `models` fit at once; they load when `may_load` is set, but for `sick`, which takes the device down.
    """

    def __init__(self, *, models: int = 2, has_late_join: bool = True) -> None:
        self.now = 0.0
        self.roster, self.watchdog = Roster(), Watchdog(60, lambda: self.now)
        self.events: list[Any] = []
        self.store: Callable[[Developed], object] = self.make_next_ready
        self.ticks: list[tuple[str, list[str]]] = []
        self.script: list[Callable[[], object]] = []
        self.is_loading, self.may_load = threading.Event(), threading.Event()
        self.executor = Executor(
            catalogue=Catalogue({name: replace(CARD, id=name) for name in ("stub", "other", "sick")}),
            residency=Residency(lambda card: self._build(card), budget_bytes=models),
            roster=self.roster,
            capacity=Capacity(8, has_late_join=has_late_join),
            pace=Pace(lambda: self.now),
            sink=self,  # type: ignore[arg-type]
            watchdog=self.watchdog,
            wake_claimer=lambda: None,
        )
        self.thread = threading.Thread(target=self.executor.run, daemon=True)

    def put(self, event: Any) -> None:
        """The sink."""
        if isinstance(event, Developed):
            self.store(event)
            event = event.made
        self.events.append(event)

    def make_next_ready(self, developed: Developed) -> None:
        if developed.frame.hands_on == "pixels":
            self.roster.make_next_ready(next_frame(developed.frame, developed.made))

    def ends(self) -> dict[str, type]:
        return {event.ref.job_id: type(event) for event in self.events if not isinstance(event, Joined)}

    def all(self, kind: type) -> list[Any]:
        return [event for event in self.events if isinstance(event, kind)]

    def add(self, name: str, *, lane: Lane = Lane.NORMAL, **params: Any) -> None:
        job = ClaimedJob(name, "default", 1, 1, 3, False, 0, NOW, NOW, replace(PARAMS, **params), {}, lane=lane)
        assert self.roster.add(job)
        self.roster.make_ready(prepare_frames(job, {}).frames)

    def run(self, *script: Callable[[], object]) -> None:
        """Work on this thread until all is done; the script has one action for each of the first ticks."""
        self.script = [*script]
        self.may_load.set()
        self.executor.stop()
        self.executor.run()

    def finish(self) -> None:
        self.executor.stop()
        if self.thread.ident is not None:
            self.thread.join(10)
        assert not self.thread.is_alive()

    def _build(self, card: ModelCard) -> StubEngine:
        self.is_loading.set()
        assert self.may_load.wait(10)
        if card.id == "sick":
            raise RuntimeError("CUDA error: device-side assert triggered")
        return TellingEngine(partial(self._hear, card.id))

    def _hear(self, model: str, jobs: list[str]) -> None:
        self.ticks.append((model, jobs))
        if self.script:
            self.script.pop(0)()


@pytest.fixture
def device() -> Iterator[Device]:
    made = Device()
    yield made
    made.may_load.set()
    made.executor.park()
    made.finish()


def lose_the_device() -> None:
    raise DeviceLost("ECC error")


def test_a_job_cancelled_while_its_model_loads_leaves_and_the_next_one_runs(device: Device) -> None:
    device.add("a")
    device.add("b")
    device.thread.start()
    assert device.is_loading.wait(10)
    assert device.roster.take_unjoined("a") == [FrameRef("a", 1, 0)]
    device.may_load.set()
    device.finish()
    assert device.ends() == {"b": Finished}


def test_an_unwanted_frame_leaves_without_touching_the_device(device: Device) -> None:
    device.add("a")
    for held in device.roster.held():
        held.is_cancel_wished = True
    device.run()
    assert (device.ends(), device.is_loading.is_set()) == ({"a": Left}, False)


def test_a_model_that_left_the_catalogue_fails_its_job_and_nothing_else(device: Device) -> None:
    device.add("lost", model="gone")
    device.add("fine")
    device.run()
    assert device.ends() == {"lost": Failed, "fine": Finished}


def test_what_joins_together_is_told_together(device: Device) -> None:
    device.add("a", num_images=2)
    device.add("b")
    device.run()
    (joined,) = device.all(Joined)
    assert {ref.job_id for ref in joined.refs} == {"a", "b"}


def test_frames_of_a_chain_run_all_passes_before_who_waits(device: Device) -> None:
    device.add("chain", num_images=2, then=(LATER, LATER))
    device.add("other")
    device.run()
    assert [event.number for event in device.all(Finished) if event.ref.job_id == "chain"] == [0, 0, 1, 1, 2, 2]
    (steps,) = [held for held in device.roster.held() if held.job.id == "chain"]
    assert sum(steps.steps_done.values()) == steps.steps == 24


def test_a_stopping_device_waits_for_a_frame_that_is_being_made_ready_for_its_next_pass(device: Device) -> None:
    developed = SimpleQueue[Developed]()
    device.store = developed.put
    device.may_load.set()
    device.add("chain", then=(LATER,))
    device.executor.stop()
    device.thread.start()
    first = developed.get(timeout=10)
    device.thread.join(0.05)
    assert device.thread.is_alive()
    device.make_next_ready(first)
    device.finish()
    assert [event.number for event in device.all(Finished)] == [0, 1]


def test_two_models_tick_in_turn_by_the_frames_that_they_serve(device: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("worker.executor.time", SimpleNamespace(monotonic=count().__next__))  # every tick takes one
    device.add("two", num_images=2)
    device.add("one", model="other")
    device.run()
    models = [model for model, _ in device.ticks]
    assert (models[:3].count("stub"), models[:6].count("stub"), models.count("other")) == (2, 4, 4)
    assert device.ends() == {"two": Finished, "one": Finished}


def test_a_model_that_needs_the_memory_of_a_busy_one_waits_and_nobody_behind_it_joins_meanwhile() -> None:
    device = Device(models=1)
    device.add("first")
    device.run(lambda: device.add("switch", model="other"), lambda: device.add("behind"))
    assert device.ticks == [("stub", ["first"])] * 4 + [("other", ["switch"])] * 4 + [("stub", ["behind"])] * 4


def test_an_urgent_job_joins_before_those_that_were_ready_earlier(device: Device) -> None:
    for name, lane in (("a", Lane.NORMAL), ("b", Lane.LOW), ("urgent", Lane.HIGH)):
        device.add(name, lane=lane)
    device.run()
    assert device.ticks[0] == ("stub", ["urgent", "a", "b"])


def test_while_others_run_a_few_frames_join_at_a_time(device: Device) -> None:
    device.add("first")
    device.run(lambda: device.add("many", num_images=2 * JOINS_PER_TICK + 1))
    assert [len(jobs) - 1 for _, jobs in device.ticks[:4]] == [n * JOINS_PER_TICK for n in (0, 1, 2)] + [9]


@pytest.mark.parametrize("has_late_join", [True, False])
def test_an_urgent_job_may_park_lesser_ones_unless_one_is_here_already(has_late_join: bool) -> None:
    device, seen = Device(has_late_join=has_late_join), list[bool]()

    def look() -> None:
        seen.append(device.executor.may_park())

    look()
    device.add("lesser")
    device.run(look, lambda: (device.add("urgent", lane=Lane.HIGH), look()), look)
    assert seen == [False, has_late_join, False, False]


@pytest.mark.parametrize("parked", [True, False])
def test_parking_and_cancelling_reach_the_engines_of_all_models(device: Device, parked: bool) -> None:
    device.add("a")
    device.add("b", model="other")
    device.run(device.executor.park if parked else lambda: [device.executor.cancel(name) for name in "ab"])
    assert sorted(device.all(Left), key=str) == [Left(FrameRef(name, 1, 0), parked=parked) for name in "ab"]


def test_a_lost_device_takes_the_frames_between_two_passes_with_it(device: Device) -> None:
    """One frame of a deterministic job is ready for its second pass when the other takes the device down."""

    class Dying(StubEngine):
        def tick(self, emit: Emit) -> None:
            emit(Finished(self._joined[0].ref, picture_of(self._joined[0]), {}))
            lose_the_device()

    device._build = lambda card: Dying()  # type: ignore[method-assign]
    device.add("chain", num_images=2, then=(LATER,))
    with pytest.raises(DeviceLost) as caught:
        device.run()
    assert sorted(event.ref.index for event in device.all(Failed)) == [0, 1]
    assert (caught.value.alone, device.roster.has_frames()) == (True, False)


def test_a_lost_device_takes_the_frames_of_every_model_with_it_and_blames_nobody(device: Device) -> None:
    device.add("a")
    device.add("b", model="other")
    with pytest.raises(DeviceLost) as caught:
        device.run(lose_the_device)
    assert device.ends() == {"a": Failed, "b": Failed}
    assert not caught.value.alone


@pytest.mark.parametrize("beside", [[], ["neighbour"]])
def test_a_device_lost_during_a_load_ends_the_process_and_blames_no_job(device: Device, beside: list[str]) -> None:
    for name in beside:
        device.add(name)
    device.add("a", model="sick")
    with pytest.raises(DeviceLost) as caught:
        device.run()
    assert device.ends() == dict.fromkeys(beside, Failed)
    assert not caught.value.alone
    assert device.roster.take_unjoined() == [FrameRef("a", 1, 0)]


def test_a_frame_that_cannot_join_leaves_the_device_at_rest(device: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(StubEngine, "join", lambda *_: [].pop())
    device.add("a")
    device.run()
    device.now = 1e6
    assert device.ends() == {"a": Failed}
    assert not device.watchdog.is_overdue()


def test_a_device_that_waits_for_the_sink_is_not_overdue(device: Device) -> None:
    seen = []

    def wait(_event: Developed) -> None:
        device.now += 1e6
        seen.append(device.watchdog.is_overdue())

    device.store = wait
    device.add("a", num_images=2)
    device.run()
    assert seen == [False, False]
