"""A device that is lost takes all frames with it, wherever it shows: the process has to end."""

from dataclasses import replace
from typing import Any

import pytest

from common.domain.capabilities import Task
from tests.unit.worker.pipelines.conftest import Shop
from tests.unit.worker.step_engine.cases import Case
from tests.unit.worker.step_engine.faults import before_each_pass, once
from tests.unit.worker.step_engine.running import engine_of, play, tick
from worker.engine.port import DeviceLost
from worker.engine.step_engine import StepEngine

torch = pytest.importorskip("torch")

SD = "stable_diffusion"
CASES = [Case(SD, Task.IMG2IMG, strength=1.0, seed=seed, blue=seed * 60) for seed in range(4)]
STICKY = RuntimeError("CUDA error: device-side assert triggered")


@pytest.fixture
def parts(shop: Shop) -> dict[str, Any]:
    return shop.parts(SD)


@pytest.fixture
def engine(parts: dict[str, Any]) -> StepEngine:
    return engine_of(SD, parts)


def fail(*_: Any, **__: Any) -> None:
    raise STICKY


def test_a_device_lost_in_a_pass_ends_the_process(engine: StepEngine, parts: dict[str, Any]) -> None:
    for number, case in enumerate(CASES):
        engine.join(case.frame(str(number)))
    events: list[Any] = []
    with before_each_pass(parts["unet"], once(STICKY)), pytest.raises(DeviceLost, match="device-side assert"):
        engine.tick(events.append)
    assert events == []
    engine.close()


@pytest.mark.parametrize(("part", "method"), [("vae", "encode"), ("vae", "decode"), ("text_encoder", "forward")])
def test_a_device_lost_in_another_model_does_too(
    engine: StepEngine, parts: dict[str, Any], monkeypatch: pytest.MonkeyPatch, part: str, method: str
) -> None:
    monkeypatch.setattr(parts[part], method, fail)
    with pytest.raises(DeviceLost, match="device-side assert"):
        play(engine, [case.frame(str(number)) for number, case in enumerate(CASES)])
    engine.close()


def test_a_device_lost_in_a_frames_own_scheduler_does_too(engine: StepEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    import diffusers

    monkeypatch.setattr(diffusers.EulerDiscreteScheduler, "step", fail)
    engine.join(replace(CASES[0], scheduler="euler").frame())
    with pytest.raises(DeviceLost, match="device-side assert"):
        tick(engine)
    engine.close()


def test_a_device_lost_while_a_frame_runs_row_by_row_does_too(
    engine: StepEngine, parts: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    errors = [torch.OutOfMemoryError("CUDA out of memory"), STICKY]
    monkeypatch.setattr("worker.engine.passes.release_memory", lambda: None)

    def one_after_the_other(_prompts: Any) -> None:
        raise errors.pop(0)

    engine.join(CASES[0].frame())
    with before_each_pass(parts["unet"], one_after_the_other), pytest.raises(DeviceLost, match="device-side assert"):
        tick(engine)
    engine.close()
