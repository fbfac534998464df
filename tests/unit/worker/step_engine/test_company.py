"""Frames come, go and share: from one tick to the next, and no work is done twice."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from common.domain.capabilities import Task
from common.domain.catalogue import AdapterCard, Source
from common.domain.params import AdapterUse
from tests.tiny_models import save_adapter
from tests.unit.worker.pipelines.conftest import Shop
from tests.unit.worker.pipelines.still import largest_difference
from tests.unit.worker.step_engine.cases import Case
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
from worker.checkpoints import Shelf
from worker.checkpoints.adapters import find_adapter
from worker.engine.adapters import AdapterRack
from worker.engine.port import Left, Previewed, Stepped
from worker.engine.stand_ins import CACHED_TEXTS
from worker.engine.step_engine import StepEngine

torch = pytest.importorskip("torch")

SD = "stable_diffusion"
TXT2IMG = Case(SD, Task.TXT2IMG)
IMG2IMG = Case(SD, Task.IMG2IMG, strength=1.0)
INPAINT = Case(SD, Task.INPAINT, strength=1.0)


@pytest.fixture
def parts(shop: Shop) -> dict[str, Any]:
    return shop.parts(SD)


@pytest.fixture
def engine(parts: dict[str, Any]) -> StepEngine:
    return engine_of(SD, parts)


def steps_of(events: list[Any]) -> dict[str, int]:
    """The step that each job did in one tick."""
    return {event.ref.job_id: event.step for event in events if isinstance(event, Stepped)}


@contextmanager
def sizes_of_encodes(vae: Any) -> Iterator[list[int]]:
    """How many pictures each call of the encoder gets within."""
    seen: list[int] = []
    hook = vae.encoder.register_forward_pre_hook(lambda _, args: seen.append(len(args[0])))
    try:
        yield seen
    finally:
        hook.remove()


@contextmanager
def texts_encoded(encoder: Any) -> Iterator[list[int]]:
    """How many windows of text each call of a text encoder gets within."""
    seen: list[int] = []
    hook = encoder.register_forward_hook(lambda *call: seen.append(len(call[2][0])))
    try:
        yield seen
    finally:
        hook.remove()


@pytest.mark.parametrize("newcomer", [TXT2IMG, IMG2IMG, INPAINT], ids=lambda case: case.task)
def test_a_newcomer_takes_its_first_step_at_the_next_tick_while_seven_others_run(
    engine: StepEngine, parts: dict[str, Any], newcomer: Case
) -> None:
    for seed in range(7):
        engine.join(Case(SD, Task.TXT2IMG, steps=9, seed=seed).frame(str(seed)))
    tick(engine)
    engine.join(newcomer.frame("new"))
    assert steps_of(tick(engine)) == {"new": 1} | {str(seed): 2 for seed in range(7)}
    assert only(play(engine_of(SD, parts), [newcomer.frame()])).facts["ticks"] == newcomer.steps
    ends = finished(to_the_end(engine))
    assert (ends["new"].facts["batched_with"], ends["0"].facts["batched_with"]) == (7, 7)


def test_unlike_tasks_schedulers_and_guidance_share_one_pass(engine: StepEngine, parts: dict[str, Any]) -> None:
    cases = [
        TXT2IMG,
        IMG2IMG,
        INPAINT,
        Case(SD, Task.TXT2IMG, "heun", guidance_scale=1.0),
        Case(SD, Task.IMG2IMG, "lcm", strength=0.7, steps=9),
    ]
    for number, case in enumerate(cases):
        engine.join(case.frame(str(number)))
    with rows_of_passes(parts["unet"]) as passes:
        tick(engine)
    assert passes == [9]
    engine.close()


def test_frames_of_another_size_share_the_engine_but_not_the_pass(engine: StepEngine, parts: dict[str, Any]) -> None:
    wide = Case(SD, Task.TXT2IMG, size=128)
    for number, case in enumerate([TXT2IMG, wide, TXT2IMG, wide]):
        assert engine.offer(case.frame(str(number))).ok
        engine.join(case.frame(str(number)))
    with rows_of_passes(parts["unet"]) as passes:
        assert steps_of(tick(engine)) == {"0": 1, "1": 1, "2": 1, "3": 1}
    assert passes == [4, 4]
    ends = finished(to_the_end(engine))
    assert {end.facts["batched_with"] for end in ends.values()} == {1}
    for number, case in enumerate([TXT2IMG, wide]):
        alone = only(play(engine_of(SD, parts), [case.frame()]))
        assert distance(latents_of(ends[str(number)]), latents_of(alone)) <= 5e-5


def test_prompts_of_other_lengths_share_the_engine_but_not_the_pass(engine: StepEngine, parts: dict[str, Any]) -> None:
    cases = [TXT2IMG, Case(SD, Task.TXT2IMG, prompt="long " * 40), Case(SD, Task.IMG2IMG, strength=1.0)]
    with rows_of_passes(parts["unet"]) as passes:
        ends = finished(play(engine, [case.frame(str(number)) for number, case in enumerate(cases)]))
    assert passes == [4, 2] * 4
    for number, case in enumerate(cases):
        alone = only(play(engine_of(SD, parts), [case.frame()]))
        assert distance(latents_of(ends[str(number)]), latents_of(alone)) <= 5e-5


def test_a_text_is_encoded_once_however_many_ask_for_it(engine: StepEngine, parts: dict[str, Any]) -> None:
    prompts = ["a red circle", "rain", "a red circle", "rain", "long " * 40]
    with texts_encoded(parts["text_encoder"]) as encoded:
        for number, prompt in enumerate(prompts):
            engine.join(Case(SD, Task.TXT2IMG, prompt=prompt, seed=number).frame(str(number)))
        to_the_end(engine)
        play(engine, [TXT2IMG.frame("again")])
    # Two prompts and the negative one, and all again for the windows that a long prompt needs.
    assert encoded == [1, 1, 1, 3, 3]


def test_the_texts_asked_for_last_are_remembered(engine: StepEngine, parts: dict[str, Any]) -> None:
    with texts_encoded(parts["text_encoder"]) as encoded:
        for number in range(CACHED_TEXTS + 1):
            engine.join(Case(SD, Task.TXT2IMG, prompt=str(number)).frame(str(number)))
            engine.cancel(str(number))
            tick(engine)
        del encoded[:]
        for prompt in (str(CACHED_TEXTS), "0"):
            engine.join(Case(SD, Task.TXT2IMG, prompt=prompt).frame(prompt))
        assert encoded == [1]
    engine.close()


def test_texts_are_encoded_anew_when_the_adapters_change(shop: Shop, tmp_path: Path) -> None:
    file, parts = save_adapter(tmp_path), shop.load(SD)
    card = AdapterCard("style", "Style", Source(directory=str(tmp_path)), file.name, "none")
    engine = engine_of(SD, parts, adapters=AdapterRack({"style": card}, lambda card: find_adapter(card, Shelf())))
    plain = only(play(engine, [TXT2IMG.frame()]))
    styled = only(play(engine, [TXT2IMG.frame(adapters=(AdapterUse("style"),))]))
    again = only(play(engine, [TXT2IMG.frame()]))
    assert torch.equal(latents_of(again), latents_of(plain))
    assert not torch.equal(latents_of(styled), latents_of(plain))
    with texts_encoded(parts["text_encoder"]) as encoded:
        play(engine, [TXT2IMG.frame(adapters=(AdapterUse("style"),)), TXT2IMG.frame("other")])
    assert encoded == [1, 1, 1, 1]


def test_newcomers_of_one_tick_share_the_encoding_of_their_pictures(engine: StepEngine, parts: dict[str, Any]) -> None:
    for seed in range(3):
        engine.join(Case(SD, Task.IMG2IMG, strength=1.0, seed=seed, blue=seed).frame(str(seed)))
    engine.join(INPAINT.frame("inpaint"))
    engine.join(TXT2IMG.frame("txt2img"))
    with sizes_of_encodes(parts["vae"]) as encoded:
        assert set(steps_of(tick(engine)).values()) == {1}
        ends = finished(to_the_end(engine))
    assert encoded == [4, 1]
    for seed in range(3):
        case = Case(SD, Task.IMG2IMG, strength=1.0, seed=seed, blue=seed)
        alone = only(play(engine_of(SD, parts), [case.frame()]))
        assert distance(latents_of(ends[str(seed)]), latents_of(alone)) <= 5e-5


def test_a_cancelled_job_leaves_at_the_next_tick_and_takes_no_step_more(
    engine: StepEngine, parts: dict[str, Any]
) -> None:
    frames = TXT2IMG.frames("unwanted", num_images=2)
    for frame in [*frames, IMG2IMG.frame("wanted")]:
        engine.join(frame)
    assert steps_of(tick(engine)) == {"unwanted": 1, "wanted": 1}
    engine.cancel("unwanted")
    with rows_of_passes(parts["unet"]) as passes:
        events = tick(engine)
    assert [event for event in events if isinstance(event, Left)] == [Left(frame.ref, parked=False) for frame in frames]
    assert (steps_of(events), passes, engine.load().frames) == ({"wanted": 2}, [2], 1)
    alone = only(play(engine_of(SD, parts), [IMG2IMG.frame()]))
    assert distance(latents_of(only(to_the_end(engine))), latents_of(alone)) <= 5e-5


@pytest.mark.parametrize("leave", [lambda engine: engine.cancel("0"), lambda engine: engine.park()])
def test_who_leaves_on_the_way_leaves_torch_as_it_was(engine: StepEngine, leave: Callable[[StepEngine], None]) -> None:
    """A suspended call is inside of `no_grad`, which puts back on its way out what it found on its way in."""
    for number, case in enumerate([TXT2IMG, IMG2IMG, INPAINT]):
        engine.join(case.frame(str(number)))
    tick(engine)
    leave(engine)
    tick(engine)
    assert torch.is_grad_enabled()
    engine.close()
    assert torch.is_grad_enabled()
    assert not torch.is_inference_mode_enabled()


def test_a_job_cancelled_in_its_last_tick_is_not_finished(engine: StepEngine) -> None:
    engine.join(TXT2IMG.frame("job"))
    for _ in range(3):
        tick(engine)
    events: list[Any] = []

    def cancel(event: Any) -> None:
        events.append(event)
        engine.cancel("job")

    engine.tick(cancel)
    assert [type(event) for event in events] == [Stepped, Left]


def test_the_metrics_tell_who_shared_the_work(engine: StepEngine) -> None:
    engine.join(TXT2IMG.frame("first"))
    for _ in range(2):
        tick(engine)
    for frame in Case(SD, Task.TXT2IMG, guidance_scale=1.0, steps=3).frames("second", num_images=2):
        engine.join(frame)
    ends = {event.ref: event.facts for event in to_the_end(engine) if hasattr(event, "facts")}
    first, *second = ends.values()
    shared = {"engine": "step", "warnings": []}
    counts = {"ticks": 4, "mean_rows": 3.0, "peak_rows": 4, "frames": 3, "batched_with": 2}
    assert {name: first[name] for name in shared | counts} == shared | counts
    counts = {"ticks": 3, "mean_rows": 3.3, "peak_rows": 4, "frames": 3, "batched_with": 1}
    assert [{name: one[name] for name in shared | counts} for one in second] == [shared | counts] * 2
    assert all(isinstance(one["run_ms"], int) for one in ends.values())


@pytest.mark.parametrize(("scheduler", "ticks"), [("ddim", 4), ("pndm", 5), ("heun", 7), ("kdpm2", 7)])
def test_a_tick_is_one_evaluation_of_the_model_also_where_a_step_has_two(
    engine: StepEngine, scheduler: str, ticks: int
) -> None:
    events = play(engine, [Case(SD, Task.TXT2IMG, scheduler).frame(), TXT2IMG.frame("other")])
    assert {end.facts["ticks"] for end in finished(events).values()} == {4, ticks}
    steps = [event.step for event in events if isinstance(event, Stepped) and event.ref.job_id != "other"]
    assert (steps, set(steps)) == (sorted(steps), {1, 2, 3, 4})


def test_everyone_who_wants_previews_gets_them_on_the_way(engine: StepEngine) -> None:
    for name in ("a", "b"):
        for frame in TXT2IMG.frames(name, previews=True, num_images=2):
            engine.join(frame)
    engine.join(TXT2IMG.frames("does not want any")[0])
    previews = [event for event in tick(engine) if isinstance(event, Previewed)]
    assert [(event.ref.job_id, event.ref.index) for event in previews] == [("a", 0), ("b", 0)]
    engine.close()


def test_unfinished_latents_are_finished_in_company(shop: Shop) -> None:
    parts = shop.parts("sdxl_refiner")
    noise = torch.Generator().manual_seed(1)
    frames = []
    for number, start in enumerate((0.5, 0.7, 0.8)):
        case = Case("sdxl_refiner", Task.IMG2IMG, strength=1.0, steps=10, seed=number)
        frame, latents = case.frame(str(number)), torch.randn(4, 8, 8, generator=noise)
        params = replace(frame.params, denoising_start=start)
        frames.append(replace(frame, params=params, image=None, latents=latents))
    others = [Case("sdxl_refiner", Task.IMG2IMG, strength=1.0, seed=seed).frame(f"other-{seed}") for seed in range(3)]
    ends = finished(play(engine_of("sdxl_refiner", parts), [*frames, *others]))
    for number, frame in enumerate(frames):
        alone = only(play(engine_of("sdxl_refiner", parts), [frame]))
        assert ends[str(number)].facts["batched_with"] == 5
        assert distance(latents_of(ends[str(number)]), latents_of(alone)) <= 5e-5


def test_pictures_of_frames_that_end_together_are_theirs(engine: StepEngine, parts: dict[str, Any]) -> None:
    cases = [Case(SD, Task.TXT2IMG, seed=seed) for seed in range(5)]
    ends = finished(play(engine, [case.frame(str(case.seed)) for case in cases]))
    for case in cases:
        alone = only(play(engine_of(SD, parts), [case.frame()]))
        assert largest_difference(picture_of(ends[str(case.seed)]), picture_of(alone)) <= 1
