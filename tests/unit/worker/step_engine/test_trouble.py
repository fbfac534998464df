"""Passes that fail: whoever they fail for is found, memory is spared, and a lost device is said to be lost."""

from collections.abc import Callable
from typing import Any

import pytest

from common.domain.errors import JobFailure
from tests.unit.worker.frames import frames_of, img2img, pictures, run, txt2img
from tests.unit.worker.pipelines.conftest import Shop
from tests.unit.worker.pipelines.still import largest_difference
from worker.engine.port import DeviceLost, Event, Failed, Finished, Prepared
from worker.engine.row_budget import RowBudget
from worker.engine.step_engine import StepEngine
from worker.pipelines import stable_diffusion

torch = pytest.importorskip("torch")

KEY = "tiny:64x64"


class OutOfMemoryError(RuntimeError):
    """Named like the one that torch raises."""


class Unruly:
    """The UNet with a fault: `fault(args, kwargs)` may raise instead. `rows` are those of each call that was made."""

    def __init__(self, unet: Any, fault: Callable[[Any, Any], None]) -> None:
        self._unet, self._fault = unet, fault
        self.rows: list[int] = []

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        self.rows.append(len(args[0]))
        self._fault(args, kwargs)
        return self._unet(*args, **kwargs)

    def close(self) -> None:
        pass


@pytest.fixture
def parts(shop: Shop) -> dict[str, Any]:
    return shop.parts("stable_diffusion")


def unruly(parts: dict[str, Any], fault: Callable[[Any, Any], None]) -> tuple[StepEngine, Unruly, RowBudget]:
    """An engine whose every pass goes through the fault, and its budget of 16 rows."""
    budget = RowBudget(16)
    engine = StepEngine(stable_diffusion, parts, budget=budget)
    unet = Unruly(parts["unet"], fault)
    for runs in (engine._passes._shared, engine._passes._fast):
        runs["unet"] = unet  # type: ignore[index]
    return engine, unet, budget


def company(count: int) -> list[Prepared]:
    return [frames_of(txt2img(seed=number), job_id=f"job-{number}")[0] for number in range(count)]


def alone(parts: dict[str, Any], frame: Prepared) -> Any:
    engine = StepEngine(stable_diffusion, parts, budget=RowBudget(16))
    return pictures(run(engine, [frame]))[frame.ref.job_id, 0]


def more_rows_than(most: int) -> Callable[[Any, Any], None]:
    def fault(args: Any, kwargs: Any) -> None:
        if len(args[0]) > most:
            raise OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    return fault


def errors(events: list[Event]) -> dict[str, str]:
    return {
        event.ref.job_id: event.error.code if isinstance(event.error, JobFailure) else str(event.error)
        for event in events
        if isinstance(event, Failed)
    }


def test_an_error_in_the_shared_pass_fails_only_the_frame_that_it_is_about(parts: dict[str, Any]) -> None:
    engine, _, _ = unruly(parts, lambda args, kwargs: None)
    frames = company(5)
    for frame in frames:
        engine.join(frame)
    bad = frames[3].ref.job_id
    engine._passes._fast["unet"]._fault = lambda args, kwargs: _refuse(args, engine, bad)  # type: ignore[attr-defined]
    events: list[Event] = []
    while engine.load().frames:
        engine.tick(events.append)
    assert errors(events) == {bad: "a bad row"}
    assert len(pictures(events)) == 4


def _refuse(args: Any, engine: StepEngine, job_id: str) -> None:
    """Raise when the rows of this job are in the pass."""
    own = next((one.call.args[0] for one in engine._seats.all() if one.ref.job_id == job_id), None)
    if own is not None and any(torch.equal(args[0][at : at + 2], own) for at in range(len(args[0]) - 1)):
        raise ValueError("a bad row")


def test_a_pass_that_does_not_fit_lowers_the_rows_of_its_size_and_loses_nobody(parts: dict[str, Any]) -> None:
    engine, unet, budget = unruly(parts, more_rows_than(4))
    frames = company(6)
    events = run(engine, frames)
    assert errors(events) == {}
    assert len(pictures(events)) == 6
    assert budget.fitting(KEY) <= 4
    assert max(unet.rows[2:]) <= 6
    assert all(largest_difference(pictures(events)[one.ref.job_id, 0], alone(parts, one)) <= 1 for one in frames)


def test_a_frame_that_does_not_fit_alone_is_run_row_by_row(parts: dict[str, Any]) -> None:
    engine, unet, _ = unruly(parts, more_rows_than(1))
    (frame,) = company(1)
    events = run(engine, [frame])
    assert errors(events) == {}
    assert set(unet.rows) == {1, 2}
    assert largest_difference(pictures(events)["job-0", 0], alone(parts, frame)) <= 1


def test_a_row_that_does_not_fit_fails_its_job_as_out_of_memory_and_the_next_runs(parts: dict[str, Any]) -> None:
    engine, unet, _ = unruly(parts, more_rows_than(0))
    assert errors(run(engine, company(1))) == {"job-0": "out_of_memory"}
    unet._fault = lambda args, kwargs: None
    assert len(pictures(run(engine, company(1)))) == 1


def test_a_lowered_budget_rises_again_after_two_hundred_good_passes() -> None:
    budget = RowBudget(16)
    budget.lower(KEY, 6)
    assert budget.fitting(KEY) == 6
    for _ in range(199):
        budget.note(KEY, 6, 0.01, None)
    assert budget.fitting(KEY) == 6
    budget.note(KEY, 6, 0.01, None)
    assert budget.fitting(KEY) == 8


def test_a_lost_device_is_raised_and_nothing_is_said_of_its_frames(parts: dict[str, Any]) -> None:
    def fault(args: Any, kwargs: Any) -> None:
        raise RuntimeError("CUDA error: device-side assert triggered")

    engine, _, _ = unruly(parts, fault)
    for frame in company(2):
        engine.join(frame)
    events: list[Event] = []
    with pytest.raises(DeviceLost):
        engine.tick(events.append)
    assert events == []


def test_a_frame_whose_own_scheduler_raises_fails_alone(parts: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    from diffusers import DDIMScheduler

    engine = StepEngine(stable_diffusion, parts, budget=RowBudget(16))
    for frame in company(3):
        engine.join(frame)
    own = engine._seats.all()[1].coroutine
    step = DDIMScheduler.step

    def broken(self: Any, *args: Any, **kwargs: Any) -> Any:
        if current[0] is own:
            raise ArithmeticError("no such step")
        return step(self, *args, **kwargs)

    current: list[Any] = [None]
    for one in engine._seats.all():
        _watch(one.coroutine, current, monkeypatch)
    monkeypatch.setattr(DDIMScheduler, "step", broken)
    events: list[Event] = []
    while engine.load().frames:
        engine.tick(events.append)
    assert errors(events) == {"job-1": "no such step"}
    assert len(pictures(events)) == 2


def _watch(coroutine: Any, current: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    resume = coroutine.resume

    def watched(answer: Any) -> None:
        current[0] = coroutine
        resume(answer)

    monkeypatch.setattr(coroutine, "resume", watched)


def test_pictures_that_cannot_be_decoded_together_are_decoded_a_few_at_a_time(
    parts: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    decode, sizes = stable_diffusion.decode, []

    def scarce(parts: Any, latents: Any) -> Any:
        sizes.append(len(latents))
        if len(latents) > 1:
            raise OutOfMemoryError("CUDA out of memory")
        return decode(parts, latents)

    monkeypatch.setattr(stable_diffusion, "decode", scarce)
    engine = StepEngine(stable_diffusion, parts, budget=RowBudget(16))
    events = run(engine, company(3))
    assert [type(event) for event in events if not hasattr(event, "step")] == [Finished] * 3
    assert sizes == [3, 2, 1, 1, 1]


def test_a_picture_that_is_too_large_to_decode_is_out_of_memory(
    parts: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def scarce(parts: Any, latents: Any) -> Any:
        raise OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(stable_diffusion, "decode", scarce)
    engine = StepEngine(stable_diffusion, parts, budget=RowBudget(16))
    assert errors(run(engine, [frames_of(img2img())[0]])) == {"job-1": "out_of_memory"}
