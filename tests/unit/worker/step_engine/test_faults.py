"""What fails fails alone: a row, a frame's own code, a picture, a pass that does not fit."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from common.domain.capabilities import Task
from common.domain.errors import JobFailure
from tests.unit.worker.pipelines.conftest import Shop
from tests.unit.worker.pipelines.still import largest_difference
from tests.unit.worker.step_engine.cases import Case
from tests.unit.worker.step_engine.faults import before_each_pass, once, poisoned, unless_at_most, unless_without
from tests.unit.worker.step_engine.running import (
    distance,
    engine_of,
    failures,
    finished,
    latents_of,
    only,
    picture_of,
    play,
    rows_of_passes,
    tick,
    to_the_end,
)
from worker.engine.port import Failed, Finished
from worker.engine.row_budget import RowBudget
from worker.engine.step_engine import StepEngine
from worker.pipelines.prompts import encode_chunks

torch = pytest.importorskip("torch")

SD = "stable_diffusion"
CASES = [Case(SD, Task.TXT2IMG, seed=seed) for seed in range(4)]
ENCODING = [Case(SD, Task.IMG2IMG, strength=1.0, seed=seed, blue=seed * 60) for seed in range(4)]
NO_MEMORY = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")


@pytest.fixture
def parts(shop: Shop) -> dict[str, Any]:
    return shop.parts(SD)


@pytest.fixture
def engine(parts: dict[str, Any]) -> StepEngine:
    return engine_of(SD, parts)


@pytest.fixture
def tidied(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is called to give memory back, which takes seconds here, is only noted."""
    calls: list[str] = []
    for room in ("passes", "decoding"):
        monkeypatch.setattr(f"worker.engine.{room}.release_memory", lambda room=room: calls.append(room))
    return calls


@pytest.fixture(scope="module")
def alone(shop: Shop) -> Callable[[Case], Finished]:
    """The end of a job that nothing disturbs."""
    return lambda case: only(play(engine_of(SD, shop.parts(SD)), [case.frame()]))


def join(engine: StepEngine, cases: list[Case]) -> None:
    for number, case in enumerate(cases):
        engine.join(case.frame(str(number)))


def assert_whole(ends: dict[str, Finished], cases: list[Case], alone: Callable[[Case], Finished]) -> None:
    """These are what they would have been in peace."""
    for number, end in ends.items():
        assert distance(latents_of(end), latents_of(alone(cases[int(number)]))) <= 5e-5


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("row", [4, 5], ids=["its negative prompt", "its prompt"])
def test_a_frame_whose_row_is_poisoned_fails_alone_and_the_others_do_not_notice(
    parts: dict[str, Any], value: float, row: int
) -> None:
    clean, engine = (engine_of(SD, parts) for _ in range(2))
    for one in (clean, engine):
        join(one, CASES)
        tick(one)
    with poisoned(parts["unet"], row, value):
        tick(engine)
    events, expected = to_the_end(engine), finished(to_the_end(clean))
    assert failures(events) == {"2": "invalid_output"}
    ends = finished(events)
    assert ends.keys() == {"0", "1", "3"}
    for number, end in ends.items():
        assert torch.equal(latents_of(end), latents_of(expected[number]))
        assert picture_of(end).tobytes() == picture_of(expected[number]).tobytes()


def test_a_picture_that_no_one_hands_on_is_looked_at_too(engine: StepEngine, parts: dict[str, Any]) -> None:
    for seed in range(3):
        engine.join(CASES[seed].frames(str(seed))[0])
    with poisoned(parts["unet"], 0, float("nan")):
        tick(engine)
    events = to_the_end(engine)
    assert failures(events) == {"0": "invalid_output"}
    assert finished(events).keys() == {"1", "2"}


def test_the_one_that_a_pass_fails_for_is_found_by_halves_and_fails_alone(
    engine: StepEngine, parts: dict[str, Any], alone: Callable[[Case], Finished]
) -> None:
    cases = [*CASES[:2], replace(CASES[2], prompt="poison"), CASES[3]]
    text = encode_chunks(parts, ["poison"], 1)[0]
    join(engine, cases)
    with (
        rows_of_passes(parts["unet"]) as passes,
        before_each_pass(parts["unet"], unless_without(text, ValueError("no such word"))),
    ):
        events = to_the_end(engine)
    assert failures(events) == {"2": "internal"}
    (failed,) = (event for event in events if isinstance(event, Failed))
    assert str(failed.error) == "no such word"
    assert passes[:5] == [8, 4, 4, 2, 2]
    assert set(passes[5:]) == {6}
    assert finished(events).keys() == {"0", "1", "3"}
    assert_whole(finished(events), cases, alone)


def test_a_pass_that_fails_once_costs_nobody_anything(
    engine: StepEngine, parts: dict[str, Any], alone: Callable[[Case], Finished]
) -> None:
    join(engine, CASES)
    with before_each_pass(parts["unet"], once(RuntimeError("a passing cloud"))):
        ends = finished(to_the_end(engine))
    assert len(ends) == 4
    assert_whole(ends, CASES, alone)


@pytest.mark.usefixtures("tidied")
def test_passes_that_do_not_fit_become_smaller_from_then_on(
    parts: dict[str, Any], alone: Callable[[Case], Finished]
) -> None:
    budget = RowBudget(16)
    engine = engine_of(SD, parts, budget=budget)
    join(engine, CASES)
    with rows_of_passes(parts["unet"]) as passes, before_each_pass(parts["unet"], unless_at_most(4, NO_MEMORY)):
        ends = finished(to_the_end(engine))
        assert passes == [8, *[4, 4] * 4]
    assert_whole(ends, CASES, alone)
    assert len(ends) == 4
    join(engine, CASES[:2])
    assert not engine.offer(CASES[2].frame()).ok
    assert engine.offer(replace(CASES[2], size=128).frame()).ok
    engine.close()


def test_rows_that_fit_again_are_let_in_again(parts: dict[str, Any]) -> None:
    budget = RowBudget(16)
    engine = engine_of(SD, parts, budget=budget)
    engine.join(CASES[0].frame())
    budget.lower("tiny:64x64", 2)
    for _ in range(200):
        assert not engine.offer(CASES[1].frame("other")).ok
        budget.note("tiny:64x64", 2, 0.01, None)
    assert engine.offer(CASES[1].frame("other")).ok
    engine.close()


def test_a_lone_frame_that_does_not_fit_runs_row_by_row(
    engine: StepEngine, parts: dict[str, Any], tidied: list[str], alone: Callable[[Case], Finished]
) -> None:
    engine.join(CASES[0].frame("0"))
    with rows_of_passes(parts["unet"]) as passes, before_each_pass(parts["unet"], unless_at_most(1, NO_MEMORY)):
        ends = finished(to_the_end(engine))
    assert passes == [2, 1, 1] * 4
    assert tidied
    assert_whole(ends, CASES, alone)
    assert ends["0"].facts["ticks"] == 4


@pytest.mark.usefixtures("tidied")
def test_a_frame_that_never_fits_is_out_of_memory_and_the_next_is_normal(
    engine: StepEngine, parts: dict[str, Any]
) -> None:
    join(engine, CASES[:2])
    with before_each_pass(parts["unet"], unless_at_most(0, NO_MEMORY)):
        events = to_the_end(engine)
    assert failures(events) == {"0": "out_of_memory", "1": "out_of_memory"}
    assert finished(play(engine, [CASES[2].frame("next")]))


@pytest.mark.parametrize("error", [ValueError("no such picture"), NO_MEMORY], ids=["mistake", "memory"])
@pytest.mark.usefixtures("tidied")
def test_newcomers_whose_pictures_cannot_be_encoded_together_are_encoded_apart(
    parts: dict[str, Any], monkeypatch: pytest.MonkeyPatch, error: Exception, alone: Callable[[Case], Finished]
) -> None:
    engine, sizes, encode = engine_of(SD, parts), [], parts["vae"].encode

    def encode_one(pictures: Any) -> Any:
        sizes.append(len(pictures))
        if len(pictures) > 1:
            raise error
        return encode(pictures)

    join(engine, [*CASES[:1], *ENCODING[1:]])
    with monkeypatch.context() as patch, rows_of_passes(parts["unet"]) as passes:
        patch.setattr(parts["vae"], "encode", encode_one)
        ends = finished(to_the_end(engine))
    assert (sizes, passes) == ([3, 2, 1, 1, 1], [8] * 4)
    assert len(ends) == 4
    assert_whole(ends, [*CASES[:1], *ENCODING[1:]], alone)


@pytest.mark.usefixtures("tidied")
def test_frames_that_end_together_and_cannot_be_decoded_together_are_decoded_apart(
    engine: StepEngine, parts: dict[str, Any], monkeypatch: pytest.MonkeyPatch, alone: Callable[[Case], Finished]
) -> None:
    sizes, decode = [], parts["vae"].decode

    def decode_one(latents: Any, **how: Any) -> Any:
        sizes.append(len(latents))
        if len(latents) > 1:
            raise NO_MEMORY
        return decode(latents, **how)

    monkeypatch.setattr(parts["vae"], "decode", decode_one)
    join(engine, CASES)
    ends = finished(to_the_end(engine))
    assert sizes == [4, 2, 1, 1, 2, 1, 1]
    for number, end in ends.items():
        assert largest_difference(picture_of(end), picture_of(alone(CASES[int(number)]))) <= 1


@pytest.mark.usefixtures("tidied")
def test_a_picture_that_cannot_be_decoded_even_in_tiles_is_out_of_memory(
    engine: StepEngine, parts: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise NO_MEMORY

    monkeypatch.setattr(parts["vae"], "decode", fail)
    assert failures(play(engine, [CASES[0].frame("0")])) == {"0": "out_of_memory"}


def test_a_frame_whose_own_scheduler_fails_fails_alone(
    engine: StepEngine, monkeypatch: pytest.MonkeyPatch, alone: Callable[[Case], Finished]
) -> None:
    import diffusers

    def fail(*_: Any, **__: Any) -> None:
        raise ZeroDivisionError("a sigma of 0")

    monkeypatch.setattr(diffusers.EulerDiscreteScheduler, "step", fail)
    cases = [*CASES[:2], replace(CASES[2], scheduler="euler")]
    join(engine, cases)
    events = to_the_end(engine)
    assert failures(events) == {"2": "internal"}
    assert_whole(finished(events), cases, alone)


def test_a_frame_that_cannot_begin_raises_from_join_and_is_not_in(engine: StepEngine) -> None:
    join(engine, CASES[:1])
    broken = replace(ENCODING[0].frame("broken"), image=None)
    with pytest.raises(ValueError, match="incorrect format"):
        engine.join(broken)
    assert engine.load().frames == 1
    assert finished(to_the_end(engine)).keys() == {"0"}


def test_a_schedule_without_a_step_is_infeasible(shop: Shop) -> None:
    engine = engine_of("sdxl_refiner", shop.parts("sdxl_refiner"))
    frame = Case("sdxl_refiner", Task.IMG2IMG, strength=0.5).frame()
    params = replace(frame.params, denoising_start=0.999)
    with pytest.raises(JobFailure) as caught:
        engine.join(replace(frame, params=params, image=None, latents=torch.zeros(4, 8, 8)))
    assert (caught.value.code, engine.load().frames) == ("infeasible", 0)
