"""An urgent frame takes the place of a lesser one, which goes on later exactly where it stood."""

from dataclasses import replace
from typing import Any

import pytest

from common.domain.capabilities import Task
from common.domain.fairness import Lane
from tests.unit.worker.pipelines.conftest import Shop
from tests.unit.worker.step_engine.cases import EVERY, Case
from tests.unit.worker.step_engine.running import (
    distance,
    engine_of,
    finished,
    latents_of,
    only,
    picture_of,
    play,
    rows_of_passes,
    tick,
    to_the_end,
)
from worker.engine.port import Left, Stepped
from worker.engine.step_engine import StepEngine

torch = pytest.importorskip("torch")

SD = "stable_diffusion"
URGENT = Case(SD, Task.TXT2IMG, "heun", seed=99)
LOW = Case(SD, Task.IMG2IMG, "unipc", strength=1.0, steps=6)
# Every scheduler, and each task four times.
PARKED = [replace(EVERY[SD][number], steps=6) for number in (0, 4, 8, 9, 13, 17, 18, 22, 26, 27, 31, 35)]


@pytest.fixture
def parts(shop: Shop) -> dict[str, Any]:
    return shop.parts(SD)


@pytest.fixture
def engine(parts: dict[str, Any]) -> StepEngine:
    """An engine with room for one frame."""
    return engine_of(SD, parts, rows=2)


def who_steps(engine: StepEngine) -> list[str]:
    return [event.ref.job_id for event in tick(engine) if isinstance(event, Stepped)]


@pytest.mark.parametrize("case", PARKED, ids=str)
def test_a_parked_frame_ends_as_if_nothing_had_been(engine: StepEngine, parts: dict[str, Any], case: Case) -> None:
    undisturbed = only(play(engine_of(SD, parts), [case.frame("low")]))
    engine.join(case.frame("low", lane=Lane.LOW))
    tick(engine)
    for name in ("urgent", "another"):
        urgent = URGENT.frame(name, lane=Lane.HIGH)
        assert engine.offer(urgent).ok
        engine.join(urgent)
        assert who_steps(engine) == [name]
        engine.cancel(name)
        assert who_steps(engine) == ["low"]
    end = only(to_the_end(engine))
    assert torch.equal(latents_of(end), latents_of(undisturbed))
    assert picture_of(end).tobytes() == picture_of(undisturbed).tobytes()
    assert end.facts["ticks"] == undisturbed.facts["ticks"]


def test_the_cases_are_every_scheduler_and_task() -> None:
    assert {case.scheduler for case in PARKED} == {case.scheduler for case in EVERY[SD]}
    assert {case.task for case in PARKED} == set(Task)


def test_the_urgent_frame_runs_to_its_end_first(engine: StepEngine, parts: dict[str, Any]) -> None:
    engine.join(LOW.frame("low", lane=Lane.LOW))
    tick(engine)
    engine.join(URGENT.frame("urgent", lane=Lane.HIGH))
    with rows_of_passes(parts["unet"]) as passes:
        ends = finished(to_the_end(engine))
    assert list(ends) == ["urgent", "low"]
    assert set(passes) == {2}
    undisturbed = only(play(engine_of(SD, parts), [URGENT.frame()]))
    assert torch.equal(latents_of(ends["urgent"]), latents_of(undisturbed))


def test_a_frame_parked_before_its_first_step_begins_later(engine: StepEngine, parts: dict[str, Any]) -> None:
    engine.join(LOW.frame("low", lane=Lane.LOW))
    engine.join(URGENT.frame("urgent", lane=Lane.HIGH))
    ends = finished(to_the_end(engine))
    undisturbed = only(play(engine_of(SD, parts), [LOW.frame()]))
    assert torch.equal(latents_of(ends["low"]), latents_of(undisturbed))


def test_parked_frames_count_as_load_and_keep_their_equals_out(engine: StepEngine) -> None:
    engine.join(LOW.frame("low", lane=Lane.LOW))
    assert not engine.offer(LOW.frame("normal", lane=Lane.LOW)).ok
    engine.join(URGENT.frame("urgent", lane=Lane.HIGH))
    assert engine.load().frames == 2
    assert not engine.offer(LOW.frame("equal", lane=Lane.LOW)).ok
    assert not engine.offer(URGENT.frame("as urgent", lane=Lane.HIGH)).ok
    engine.close()


@pytest.mark.parametrize("parked", [True, False])
def test_a_parked_frame_can_leave(engine: StepEngine, parked: bool) -> None:
    low = LOW.frame("low", lane=Lane.LOW)
    engine.join(low)
    engine.join(URGENT.frame("urgent", lane=Lane.HIGH))
    tick(engine)
    if parked:
        engine.park()
    else:
        engine.cancel("low")
    assert Left(low.ref, parked=parked) in tick(engine)
    assert engine.load().frames == (0 if parked else 1)
    engine.close()


def test_in_company_a_parked_frame_loses_nothing_but_time(parts: dict[str, Any]) -> None:
    engine = engine_of(SD, parts, rows=6)
    for number in range(3):
        engine.join(Case(SD, Task.TXT2IMG, "dpmpp_2m", steps=6, seed=number).frame(str(number), lane=Lane.LOW))
        tick(engine)
    engine.join(URGENT.frame("urgent", lane=Lane.HIGH))
    assert sorted(who_steps(engine)) == ["0", "1", "urgent"]
    ends = finished(to_the_end(engine))
    assert len(ends) == 4
    for number in range(3):
        case = Case(SD, Task.TXT2IMG, "dpmpp_2m", steps=6, seed=number)
        alone = only(play(engine_of(SD, parts), [case.frame()]))
        assert distance(latents_of(ends[str(number)]), latents_of(alone)) <= 5e-5
