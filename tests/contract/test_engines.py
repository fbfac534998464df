"""What every engine promises, over each that we ship."""

from collections.abc import Callable, Sequence
from typing import Any

import pytest

from tests.tiny_models import load_stable_diffusion
from tests.unit.worker.frames import (
    SIZE,
    claimed,
    frames_of,
    gradient,
    img2img,
    pictures,
    png,
    run,
    txt2img,
)
from worker.engine.frames import prepare_frames
from worker.engine.pipeline_engine import PipelineEngine
from worker.engine.port import Engine, Event, Failed, Finished, Left, Stepped
from worker.engine.row_budget import RowBudget
from worker.engine.step_engine import StepEngine
from worker.engine.stub_engine import StubEngine
from worker.pipelines.registry import pipeline_for

MAX_FRAMES = 4


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return load_stable_diffusion(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(params=["pipeline", "step", "stub"])
def engine(request: pytest.FixtureRequest) -> Engine:
    if request.param == "stub":
        return StubEngine(max_frames=MAX_FRAMES)
    family, parts = pipeline_for("stable_diffusion"), request.getfixturevalue("parts")
    if request.param == "step":
        return StepEngine(family, parts, budget=RowBudget(2 * MAX_FRAMES))
    return PipelineEngine(family, parts, max_frames=MAX_FRAMES)


# A diffusers call, and the stub that pretends to be one, is of one size and one kind; passes are many in a tick.
one_call_at_a_time = pytest.mark.parametrize("engine", ["pipeline", "stub"], indirect=True)
many_passes_in_a_tick = pytest.mark.parametrize("engine", ["step"], indirect=True)


def tick_to_the_end(engine: Engine, emit: Callable[[Event], None]) -> None:
    while engine.load().frames:
        engine.tick(emit)


def test_a_job_becomes_one_frame_per_image_with_its_own_seed(engine: Engine) -> None:
    picture = png(gradient(100))
    params = img2img(num_images=3, seed=2**32 - 1)
    frames = prepare_frames(claimed(params, inputs={"image": picture}), {"image": picture}).frames
    assert [frame.ref.index for frame in frames] == [0, 1, 2]
    assert [frame.seed for frame in frames] == [2**32 - 1, 0, 1]
    assert {frame.steps for frame in frames} == {4}
    assert {frame.image.size for frame in frames if frame.image} == {(SIZE, SIZE)}


def finished(events: Sequence[Event]) -> list[Finished]:
    return [event for event in events if isinstance(event, Finished)]


def test_every_frame_ends_once_after_its_steps_in_order(engine: Engine) -> None:
    frames = [*frames_of(txt2img(num_images=2), job_id="a"), *frames_of(txt2img(prompt="other"), job_id="b")]
    events = run(engine, frames)
    for frame in frames:
        own = [event for event in events if event.ref == frame.ref]
        assert [event.step for event in own if isinstance(event, Stepped)] == [1, 2, 3, 4]
        assert [type(event) for event in own[4:]] == [Finished]


def test_a_finished_frame_is_a_picture_of_the_size_asked_for(engine: Engine) -> None:
    (end,) = finished(run(engine, frames_of(txt2img(width=64, height=128))))
    assert end.pixels is not None
    assert (end.pixels.mode, end.pixels.size) == ("RGB", (64, 128))
    assert end.facts["frames"] == 1
    assert {"engine", "run_ms"} <= end.facts.keys()


@pytest.mark.parametrize("make", [txt2img, img2img])
def test_the_same_seed_gives_the_same_picture_and_another_seed_another(
    engine: Engine, make: Callable[..., Any]
) -> None:
    first, again = (pictures(run(engine, frames_of(make(seed=5))))["job-1", 0] for _ in range(2))
    other = pictures(run(engine, frames_of(make(seed=6))))["job-1", 0]
    assert first.tobytes() == again.tobytes() != other.tobytes()


def test_the_input_picture_matters(engine: Engine) -> None:
    one = pictures(run(engine, frames_of(img2img(), picture=gradient(blue=10))))["job-1", 0]
    other = pictures(run(engine, frames_of(img2img(), picture=gradient(blue=240))))["job-1", 0]
    assert one.tobytes() != other.tobytes()


def test_an_empty_engine_takes_any_frame_and_then_its_like(engine: Engine) -> None:
    engine.join(frames_of(txt2img(width=128))[0])
    assert engine.offer(frames_of(txt2img(width=128, prompt="other", seed=9), job_id="b")[0]).ok
    tick_to_the_end(engine, lambda event: None)
    assert engine.offer(frames_of(txt2img(), job_id="b")[0]).ok


@one_call_at_a_time
def test_frames_of_another_size_wait_for_the_next_call(engine: Engine) -> None:
    engine.join(frames_of(txt2img())[0])
    refused = engine.offer(frames_of(txt2img(width=128), job_id="b")[0])
    assert not refused.ok
    assert refused.reason


@many_passes_in_a_tick
def test_frames_of_another_size_run_beside_the_others_in_passes_of_their_own(engine: Engine) -> None:
    ends = finished(run(engine, [*frames_of(txt2img()), *frames_of(txt2img(width=128), job_id="b")]))
    assert [(one.facts["frames"], one.facts["batched_with"]) for one in ends] == [(1, 0), (1, 0)]


@many_passes_in_a_tick
def test_frames_that_no_call_could_share_share_their_passes(engine: Engine) -> None:
    unlike = img2img(scheduler="pndm", guidance_scale=2.0, num_inference_steps=10)
    ends = finished(run(engine, [*frames_of(txt2img()), *frames_of(unlike, job_id="b")]))
    assert [one.facts["batched_with"] for one in ends] == [1, 1]


@many_passes_in_a_tick
def test_a_newcomer_steps_in_the_tick_after_it_joined(engine: Engine) -> None:
    engine.join(frames_of(txt2img())[0])
    engine.tick(lambda event: None)
    (late,) = frames_of(img2img(), job_id="late")
    assert engine.offer(late).ok
    engine.join(late)
    events: list[Event] = []
    engine.tick(events.append)
    assert Stepped(late.ref, 1, late.steps) in events


def test_a_full_engine_takes_no_more(engine: Engine) -> None:
    frames = frames_of(txt2img(num_images=MAX_FRAMES + 1))
    for frame in frames[:-1]:
        engine.join(frame)
    assert (engine.load().frames, engine.load().max_frames) == (MAX_FRAMES, MAX_FRAMES)
    assert not engine.offer(frames[-1]).ok


def test_a_deterministic_job_shares_no_work_with_others_and_is_always_the_same(engine: Engine) -> None:
    frames = frames_of(txt2img(deterministic=True, num_images=2), job_id="exact")
    clean = pictures(run(engine, frames))
    events: list[Event] = []
    for frame in [*frames, *frames_of(txt2img(), job_id="other")]:
        if engine.offer(frame).ok:
            engine.join(frame)
    tick_to_the_end(engine, events.append)
    ends = [one for one in finished(events) if one.ref.job_id == "exact"]
    assert [one.facts["batched_with"] for one in ends] == [0, 0]
    assert {one.ref.index: one.pixels.tobytes() for one in ends if one.pixels} == {
        index: picture.tobytes() for (_, index), picture in clean.items()
    }


@one_call_at_a_time
def test_nobody_joins_a_deterministic_job(engine: Engine) -> None:
    params = txt2img(deterministic=True, num_images=2)
    first, second = frames_of(params, job_id="a")
    engine.join(first)
    assert engine.offer(second).ok
    assert not engine.offer(frames_of(params, job_id="b")[0]).ok
    assert not engine.offer(frames_of(txt2img(), job_id="c")[0]).ok


@many_passes_in_a_tick
def test_a_deterministic_job_keeps_nobody_waiting(engine: Engine) -> None:
    frames = [*frames_of(txt2img(deterministic=True), job_id="a"), *frames_of(txt2img(), job_id="b")]
    for frame in frames:
        assert engine.offer(frame).ok
        engine.join(frame)
    events: list[Event] = []
    engine.tick(events.append)
    assert events == [Stepped(frame.ref, 1, 4) for frame in frames]


def test_a_job_cancelled_on_its_way_leaves_and_its_company_finishes(engine: Engine) -> None:
    events: list[Event] = []

    def cancel_at_step_two(event: Event) -> None:
        events.append(event)
        if event == Stepped(unwanted.ref, 2, 4):
            engine.cancel("unwanted")

    unwanted, wanted = frames_of(txt2img(), job_id="unwanted")[0], frames_of(txt2img(seed=1), job_id="wanted")[0]
    engine.join(unwanted)
    engine.join(wanted)
    tick_to_the_end(engine, cancel_at_step_two)
    assert Left(unwanted.ref, parked=False) in events
    assert pictures(events).keys() == {("wanted", 0)}


def test_a_job_alone_leaves_at_the_step_of_its_cancellation(engine: Engine) -> None:
    (frame,) = frames_of(txt2img())
    events = _run_until(engine, Stepped(frame.ref, 2, 4), lambda: engine.cancel("job-1"))
    assert events == [Stepped(frame.ref, 1, 4), Stepped(frame.ref, 2, 4), Left(frame.ref, parked=False)]


def test_a_parked_engine_lets_all_frames_go_and_works_on(engine: Engine) -> None:
    frames = frames_of(txt2img(num_images=2))
    clean = pictures(run(engine, frames))
    for frame in frames[1:]:
        engine.join(frame)
    events = _run_until(engine, Stepped(frames[0].ref, 1, 4), engine.park, first=frames[0])
    assert {event for event in events if not isinstance(event, Stepped)} == {Left(frame.ref, True) for frame in frames}
    again = pictures(run(engine, frames))
    assert {key: again[key].tobytes() for key in again} == {key: clean[key].tobytes() for key in clean}


def test_a_cancelled_job_is_not_parked(engine: Engine) -> None:
    (frame,) = frames_of(txt2img())
    engine.join(frame)
    engine.cancel("job-1")
    engine.park()
    events: list[Event] = []
    engine.tick(events.append)
    assert events == [Left(frame.ref, parked=False)]


def test_cancelling_a_job_that_is_not_here_does_not_outlive_it(engine: Engine) -> None:
    run(engine, frames_of(txt2img()))
    engine.cancel("job-1")
    assert pictures(run(engine, frames_of(txt2img())))


def test_a_tick_of_an_empty_engine_does_nothing(engine: Engine) -> None:
    events: list[Event] = []
    engine.tick(events.append)
    assert events == []
    assert engine.load().frames == 0


def test_no_frame_fails_for_nothing(engine: Engine) -> None:
    events = run(engine, frames_of(img2img(num_images=MAX_FRAMES)))
    assert not [event for event in events if isinstance(event, Failed)]


def _run_until(engine: Engine, moment: Event, do: Callable[[], None], first: Any = None) -> list[Event]:
    events: list[Event] = []

    def emit(event: Event) -> None:
        events.append(event)
        if event == moment:
            do()

    engine.join(first or frames_of(txt2img())[0])
    tick_to_the_end(engine, emit)
    return events
