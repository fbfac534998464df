"""Who shares a pass with whom, who comes and goes when, and what it costs them."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from common.domain.fairness import Lane
from tests.unit.worker.frames import frames_of, img2img, pictures, run, txt2img
from tests.unit.worker.pipelines.conftest import Shop
from tests.unit.worker.step_engine.running import engine_of, tick, to_the_end
from worker.engine.port import Finished, Left, Prepared, Stepped
from worker.engine.row_budget import RowBudget
from worker.engine.running import Running
from worker.engine.seats import Seats
from worker.engine.step_engine import StepEngine

torch = pytest.importorskip("torch")

NOW = datetime(2026, 1, 1, tzinfo=UTC)
MIXED = (
    txt2img(seed=1),
    img2img(strength=0.8, num_inference_steps=9, seed=2),
    txt2img(guidance_scale=1.0, seed=3),
    img2img(scheduler="heun", seed=4),
    txt2img(scheduler="lcm", num_inference_steps=6, effective_steps=6, seed=5),
    img2img(strength=0.3, num_inference_steps=20, seed=6),
    txt2img(prompt="another", seed=7),
)


class Counting:
    """A model that counts its calls and their rows."""

    def __init__(self, model: Any) -> None:
        self.model, self.rows = model, list[int]()

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        self.rows.append(len(args[0]))
        return self.model(*args, **kwargs)

    def close(self) -> None:
        pass


@pytest.fixture
def parts(shop: Shop) -> dict[str, Any]:
    return shop.parts("stable_diffusion")


def one(params: Any, job_id: str, lane: Lane = Lane.NORMAL) -> Prepared:
    (frame,) = frames_of(params, job_id=job_id)
    return replace(frame, job=replace(frame.job, lane=lane))


def mixed() -> list[Prepared]:
    return [one(params, f"job-{number}") for number, params in enumerate(MIXED)]


def counted(engine: StepEngine, name: str) -> Counting:
    """Count what the engine asks of this shared model, whoever asks."""
    counting = Counting(engine._passes._shared[name])
    engine._passes._shared = {**engine._passes._shared, name: counting}
    engine._passes._fast = {**engine._passes._fast, name: counting}
    return counting


def test_a_newcomer_takes_its_first_step_at_the_next_tick_while_seven_others_run(parts: dict[str, Any]) -> None:
    engine = engine_of("stable_diffusion", parts)
    for frame in mixed():
        engine.join(frame)
    tick(engine)
    newcomer = one(img2img(strength=0.6), "newcomer")
    assert engine.offer(newcomer).ok
    engine.join(newcomer)
    assert newcomer.ref in {event.ref for event in tick(engine) if isinstance(event, Stepped)}


def test_unlike_frames_share_one_pass_and_another_size_has_its_own(parts: dict[str, Any]) -> None:
    engine = engine_of("stable_diffusion", parts)
    unet = counted(engine, "unet")
    for frame in [*mixed(), one(txt2img(width=128), "wide")]:
        assert engine.offer(frame).ok
        engine.join(frame)
    tick(engine)
    assert sorted(unet.rows) == [2, 13]


def test_a_cancelled_job_leaves_at_the_next_tick(parts: dict[str, Any]) -> None:
    engine = engine_of("stable_diffusion", parts)
    frames = mixed()
    for frame in frames:
        engine.join(frame)
    tick(engine)
    engine.cancel(frames[1].ref.job_id)
    events = tick(engine)
    assert events[0] == Left(frames[1].ref, parked=False)
    assert frames[1].ref not in {event.ref for event in events[1:]}
    assert engine.load().frames == len(frames) - 1


def test_the_passes_of_a_deterministic_job_contain_nothing_else_while_others_go_on(parts: dict[str, Any]) -> None:
    params = img2img(deterministic=True, num_images=2)
    expected = pictures(run(engine_of("stable_diffusion", parts), frames_of(params, job_id="exact")))
    engine = engine_of("stable_diffusion", parts)
    unet = counted(engine, "unet")
    for frame in [*mixed(), *frames_of(params, job_id="exact")]:
        engine.join(frame)
    events = tick(engine)
    assert sorted(unet.rows) == [2, 2, 13]
    assert {event.ref.job_id for event in events} == {*(f"job-{number}" for number in range(7)), "exact"}
    made = pictures(events + to_the_end(engine))
    assert all(made[key].tobytes() == picture.tobytes() for key, picture in expected.items())


def test_pictures_of_newcomers_are_encoded_together(parts: dict[str, Any]) -> None:
    engine = engine_of("stable_diffusion", parts)
    encode = counted(engine, "vae.encode")
    for number in range(3):
        engine.join(one(img2img(seed=number), f"job-{number}"))
    tick(engine)
    assert encode.rows == [3]


def test_a_text_is_encoded_once(parts: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    encoder, calls = parts["text_encoder"], []
    forward = encoder.forward
    monkeypatch.setattr(encoder, "forward", lambda *args, **kwargs: calls.append(1) or forward(*args, **kwargs))
    engine = engine_of("stable_diffusion", parts)
    for number in range(4):
        engine.join(one(txt2img(seed=number), f"job-{number}"))
    assert len(calls) == 2  # the prompt, and the empty negative prompt


def test_metrics_say_who_shared_the_passes(parts: dict[str, Any]) -> None:
    engine = engine_of("stable_diffusion", parts)
    long, short = one(txt2img(), "long"), one(img2img(strength=0.25), "short")
    engine.join(long)
    engine.join(short)
    facts = {event.ref.job_id: event.facts for event in to_the_end(engine) if isinstance(event, Finished)}
    assert facts["long"].items() >= {"engine": "step", "ticks": 4, "mean_rows": 3.0, "peak_rows": 4}.items()
    assert facts["short"].items() >= {"ticks": 2, "mean_rows": 4.0, "batched_with": 1, "frames": 2}.items()


def test_an_urgent_frame_parks_a_lesser_one_which_goes_on_exactly_where_it_stood(parts: dict[str, Any]) -> None:
    low, urgent = one(img2img(scheduler="unipc", seed=5), "low", Lane.LOW), one(txt2img(), "urgent", Lane.HIGH)
    undisturbed = pictures(run(engine_of("stable_diffusion", parts), [low]))["low", 0]
    engine = engine_of("stable_diffusion", parts, rows=2)
    engine.join(low)
    tick(engine)
    assert not engine.offer(one(txt2img(), "normal-too", Lane.LOW)).ok
    assert engine.offer(urgent).ok
    engine.join(urgent)
    events = to_the_end(engine)
    ended = [event.ref.job_id for event in events if isinstance(event, Finished)]
    assert ended == ["urgent", "low"]
    assert pictures(events)["low", 0].tobytes() == undisturbed.tobytes()


def test_an_equal_does_not_park_an_equal_and_the_parked_come_before_newcomers(parts: dict[str, Any]) -> None:
    engine = engine_of("stable_diffusion", parts, rows=4)
    for name in ("a", "b"):
        engine.join(one(txt2img(), name, Lane.LOW))
    engine.join(one(txt2img(num_inference_steps=1, effective_steps=1), "urgent", Lane.HIGH))
    assert not engine.offer(one(txt2img(), "another", Lane.LOW)).ok
    tick(engine)
    refused = engine.offer(one(txt2img(), "newcomer", Lane.LOW))
    assert (refused.ok, refused.reason) == (False, "parked frames come first")


def test_a_lone_frame_always_fits() -> None:
    seats = Seats(RowBudget(2), lambda: NOW)
    frame = one(txt2img(num_images=1), "a")
    assert seats.offer(frame).ok


def test_a_newcomer_waits_where_it_would_cost_a_running_job_its_deadline(parts: dict[str, Any]) -> None:
    budget = RowBudget(16)
    for rows, seconds in ((2, 1.0), (4, 2.0)):
        for _ in range(3):
            budget.note("tiny:64x64", rows, seconds, None)
    seats = Seats(budget, lambda: NOW)
    frame = one(txt2img(), "urgent")
    due = replace(frame, job=replace(frame.job, deadline_at=NOW + timedelta(seconds=6)))
    seats.take(Running(due, _Waiting(), left=4))  # type: ignore[arg-type]
    refused = seats.offer(one(txt2img(), "newcomer"))
    assert (refused.ok, refused.reason) == (False, "a running job would miss its deadline")
    late = replace(frame, job=replace(frame.job, deadline_at=NOW + timedelta(seconds=3)))
    hopeless = Seats(budget, lambda: NOW)
    hopeless.take(Running(late, _Waiting(), left=4))  # type: ignore[arg-type]
    assert hopeless.offer(one(txt2img(), "newcomer")).ok


class _Waiting:
    waits_for = None
