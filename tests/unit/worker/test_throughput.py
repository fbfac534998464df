"""The pace of each model: by a clock that the test moves, and by the engines that we ship."""

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import pytest

from common.domain.fairness import predicted_seconds
from tests.tiny_models import load_stable_diffusion
from tests.unit.worker.frames import frames_of, txt2img
from tests.unit.worker.test_executor import Device
from worker.engine.pipeline_engine import PipelineEngine
from worker.engine.port import Engine, Failed, Finished, Prepared, Stepped
from worker.engine.row_budget import RowBudget
from worker.engine.step_engine import StepEngine
from worker.engine.stub_engine import StubEngine
from worker.pipelines.registry import pipeline_for
from worker.throughput import Throughput

MEGAPIXEL = {"width": 1000, "height": 1000}


def frame(model: str = "tiny", **params: Any) -> Prepared:
    return frames_of(txt2img(model=model, **(MEGAPIXEL | params)), job_id=f"job-of-{model}")[0]


def step(throughput: Throughput, one: Prepared, to: int) -> None:
    throughput.hear(one, Stepped(one.ref, to, one.steps))


def test_nothing_is_said_before_anything_is_measured() -> None:
    throughput = Throughput()
    throughput.charge("tiny", 3.0)  # a tick without a step
    assert throughput.paces() is None


def test_a_pace_is_seconds_by_megapixels_and_steps_over_all_that_share_a_tick() -> None:
    throughput = Throughput()
    one, other = frame(), replace(frame(width=500), ref=replace(frame().ref, index=1))
    step(throughput, one, 1)
    step(throughput, other, 1)
    throughput.charge("tiny", 3.0)
    assert throughput.paces() == {"tiny": 2.0}


def test_two_models_are_measured_apart() -> None:
    throughput = Throughput()
    fast, slow = frame("fast"), frame("slow", width=500)
    for done in (1, 2, 3):
        step(throughput, fast, done)
        throughput.charge("fast", 0.25)
        step(throughput, slow, done)
        throughput.charge("slow", 4.0)
    assert throughput.paces() == {"fast": 0.25, "slow": 8.0}


def test_a_call_that_runs_many_steps_and_one_that_skips_some_count_them_all() -> None:
    throughput, one = Throughput(), frame(num_inference_steps=8, effective_steps=8)
    for done in (1, 2, 2, 5, 8):  # some schedulers evaluate twice for a step, some engines report seldom
        step(throughput, one, done)
    throughput.charge("tiny", 4.0)
    assert throughput.paces() == {"tiny": 0.5}


def test_steps_that_are_done_again_count_again() -> None:
    throughput, one = Throughput(), frame()
    for done in (1, 2, 1, 2):  # out of memory in between
        step(throughput, one, done)
    throughput.charge("tiny", 4.0)
    assert throughput.paces() == {"tiny": 1.0}


def test_a_frame_that_comes_again_begins_at_its_first_step() -> None:
    throughput, one = Throughput(), frame()
    for _ in range(2):  # two passes of a chain, or two attempts
        step(throughput, one, 3)
        throughput.hear(one, Failed(one.ref, ValueError()))
    throughput.charge("tiny", 6.0)
    assert throughput.paces() == {"tiny": 1.0}


def test_a_whole_run_costs_what_was_predicted_for_its_pace() -> None:
    throughput, one = Throughput(), frame()
    for done in range(1, one.steps + 1):
        step(throughput, one, done)
    throughput.hear(one, Finished(one.ref, None, {}))
    throughput.charge("tiny", 2.0)
    (pace,) = (throughput.paces() or {}).values()
    predicted = predicted_seconds(frames=1, steps=one.steps, seconds_per_megapixel_step=pace, **MEGAPIXEL)
    assert predicted == pytest.approx(2.0)


def test_the_first_tick_after_a_load_is_left_out() -> None:
    throughput, one = Throughput(), frame()
    throughput.load("tiny")
    step(throughput, one, 1)
    throughput.charge("tiny", 100.0)
    assert throughput.paces() is None
    step(throughput, one, 2)
    throughput.charge("tiny", 2.0)
    assert throughput.paces() == {"tiny": 2.0}


def test_the_load_of_one_model_leaves_the_ticks_of_another_alone() -> None:
    throughput = Throughput()
    throughput.load("slow")
    step(throughput, frame("fast"), 1)
    throughput.charge("fast", 0.5)
    assert throughput.paces() == {"fast": 0.5}


@pytest.mark.parametrize(
    ("ticks", "steps", "seconds"), [(100, 3, 0.3), (100, 1, 2.0)], ids=["by its work", "by its seconds"]
)
def test_a_new_pace_is_learned_and_the_old_one_forgotten(ticks: int, steps: int, seconds: float) -> None:
    throughput, one = Throughput(), frame(num_inference_steps=1000, effective_steps=1000)
    for number in range(100):
        step(throughput, one, number * 2)
        throughput.charge("tiny", 10.0)
    for number in range(ticks):
        step(throughput, one, 198 + (number + 1) * steps)
        throughput.charge("tiny", seconds)
    assert (throughput.paces() or {})["tiny"] == pytest.approx(seconds / steps, rel=0.1)


def test_ticks_without_a_step_and_odd_ticks_weigh_by_their_seconds() -> None:
    throughput, one = Throughput(), frame()
    throughput.charge("tiny", 1.0)  # texts and pictures are encoded
    step(throughput, one, 1)
    throughput.charge("tiny", 1.0)
    assert (throughput.paces() or {})["tiny"] == pytest.approx(2.0, rel=0.05)


def test_paces_have_four_digits() -> None:
    throughput = Throughput()
    step(throughput, frame(), 1)
    throughput.charge("tiny", 0.0123456789)
    assert throughput.paces() == {"tiny": 0.01235}


class Clock:
    """Stands in for the executor's `time`; the engine's work moves it."""

    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now

    def pass_by(self, seconds: float) -> None:
        self.now += seconds


def test_the_device_thread_measures_each_model_while_they_take_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, device = Clock(), Device()
    monkeypatch.setattr("worker.executor.time", clock)
    seconds = {"stub": 0.5, "other": 3.0}
    monkeypatch.setattr(device, "_build", lambda card: StubEngine(step_seconds=seconds[card.id], sleep=clock.pass_by))
    for model in seconds:
        device.add(model, model=model, num_inference_steps=9, effective_steps=9)
    device.run()
    megapixels = 64 * 64 / 1e6
    # The first of nine ticks is left out and the last counts as two: eight ticks, nine steps, the newest weigh most.
    expected = {model: one * 8 / 9 / megapixels for model, one in seconds.items()}
    assert device.executor.throughput.paces() == pytest.approx(expected, rel=0.05)


def test_waiting_for_the_store_makes_no_model_slow(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, device = Clock(), Device()
    monkeypatch.setattr("worker.executor.time", clock)
    monkeypatch.setattr(device.executor.usage, "_clock", clock.monotonic)
    monkeypatch.setattr(device, "_build", lambda card: StubEngine(step_seconds=0.5, sleep=clock.pass_by))
    device.store = lambda developed: clock.pass_by(1000.0)
    device.add("a", num_inference_steps=9, effective_steps=9)
    device.run()
    paces = device.executor.throughput.paces() or {}
    assert paces["stub"] == pytest.approx(0.5 * 8 / 9 / (64 * 64 / 1e6), rel=0.05)


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    pytest.importorskip("torch")
    return load_stable_diffusion(tmp_path_factory.mktemp("models") / "tiny")


def pipeline_engine(parts: dict[str, Any]) -> Engine:
    return PipelineEngine(pipeline_for("stable_diffusion"), parts, max_frames=4)


def step_engine(parts: dict[str, Any]) -> Engine:
    return StepEngine(pipeline_for("stable_diffusion"), parts, budget=RowBudget(8))


class Charged:
    """An engine whose ticks are charged as the device thread charges them."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.throughput = Throughput()
        self.seconds = 0.0

    def run(self, frames: Sequence[Prepared]) -> None:
        by_ref = {one.ref: one for one in frames}
        for one in frames:
            self._engine.join(one)
        while self._engine.load().frames:
            began = time.monotonic()
            self._engine.tick(partial(self._hear, by_ref))
            spent = time.monotonic() - began
            self.seconds += spent
            self.throughput.charge("tiny", spent)

    def _hear(self, by_ref: dict[Any, Prepared], event: Any) -> None:
        assert not isinstance(event, Failed)
        self.throughput.hear(by_ref[event.ref], event)


@pytest.mark.parametrize("build", [pipeline_engine, step_engine])
@pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")
def test_the_engines_give_the_pace_at_which_they_ran(
    parts: dict[str, Any], build: Callable[[dict[str, Any]], Engine]
) -> None:
    charged, params = Charged(build(parts)), txt2img(num_inference_steps=8, effective_steps=8, num_images=2)
    charged.run(frames_of(params))
    true = charged.seconds / (2 * 8 * params.width * params.height / 1e6)
    (pace,) = (charged.throughput.paces() or {}).values()
    assert true / 2 <= pace <= true * 2
