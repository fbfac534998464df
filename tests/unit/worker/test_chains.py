"""Chains on real pipelines: what is handed on, against hand-written diffusers chains, and after an interruption."""

import hashlib
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from common.domain.capabilities import Task
from common.domain.catalogue import Catalogue, ModelCard
from common.domain.job import ClaimedJob, DoneStep
from common.domain.params import EditParams, MaskParams, PassParams
from common.domain.settling import Given, settle
from common.domain.wishes import StepWishes, Wishes
from common.settings import Settings
from tests.tiny_models import card_of, save_sdxl, save_stable_diffusion
from tests.unit.worker.frames import claimed, gradient, largest_difference, png
from worker.checkpoints import Shelf, load_components
from worker.checkpoints.fingerprints import vae_fingerprint
from worker.device import pick_device
from worker.engine.building import EngineBuilder
from worker.engine.frames import complete, next_frame, prepare_frames, step_role
from worker.engine.pipeline_engine import PipelineEngine
from worker.engine.port import Engine, Event, Finished, Prepared
from worker.handover import Handover, pack, unpack
from worker.pipelines.registry import pipeline_for

torch = pytest.importorskip("torch")

# Schedulers of diffusers that hand torch tensors to numpy; shown to nobody outside of tests.
pytestmark = pytest.mark.filterwarnings("ignore:__array(_wrap)?__ :DeprecationWarning")


class Studio:
    """Tiny models by id, loaded once: `twin` shares the VAE of `first` under another name, `other` does not."""

    def __init__(self, folder: Path, engine: str) -> None:
        save_stable_diffusion(folder / "first", seed=1)
        save_stable_diffusion(folder / "twin", seed=2)
        shutil.rmtree(folder / "twin" / "vae")
        shutil.copytree(folder / "first" / "vae", folder / "twin" / "vae")
        save_stable_diffusion(folder / "other", seed=3)
        save_sdxl(folder / "xl", seed=4)
        self.cards = {name: card_of(folder / name, id=name) for name in ("first", "twin", "other")}
        self.cards["xl"] = card_of(folder / "xl", id="xl", family="sdxl")
        self.catalogue = Catalogue(self.cards)
        self.builder = EngineBuilder(pick_device("cpu"), Shelf(), self.catalogue, Settings(engine=engine))
        self._engines: dict[str, Engine] = {}

    def card(self, name: str) -> ModelCard:
        return self.cards[name]

    def parts(self, name: str) -> dict[str, Any]:
        return load_components(self.card(name), pick_device("cpu"), Shelf())

    def settle(self, *steps: StepWishes, **wishes: Any) -> EditParams:
        members = {"prompt": "a red circle", "deterministic": True, "seed": 11} | wishes
        given = Given((64, 64))
        return settle(Wishes(steps=steps, **members), self.catalogue, given, random_seed=0)

    def develop(self, job: ClaimedJob, inputs: dict[str, bytes]) -> list[Finished]:
        """Every pass of every frame, in the order in which they finish."""
        start = prepare_frames(job, inputs, self.builder.may_hand_latents)
        done = [*start.kept]
        waiting = list(start.frames)
        while waiting:
            ended = self._run(waiting)
            done += ended.values()
            waiting = [
                next_frame(frame, ended[frame.ref.index]) for frame in waiting if frame.number < len(job.params.then)
            ]
        return done

    def _run(self, frames: Sequence[Prepared]) -> dict[int, Finished]:
        model = frames[0].params.model
        engine = self._engines.setdefault(model, self.builder(self.card(model)))
        events: list[Event] = []
        for frame in frames:
            assert engine.offer(frame).ok
            engine.join(frame)
        while engine.load().frames:
            engine.tick(events.append)
        by_index = {frame.ref.index: frame for frame in frames}
        ended = {event.ref.index: event for event in events if isinstance(event, Finished)}
        assert ended.keys() == by_index.keys(), events
        return {
            index: event if event.pixels is None else replace(event, pixels=complete(by_index[index], event.pixels))
            for index, event in ended.items()
        }


@pytest.fixture(scope="module", params=["pipeline", "step"])
def studio(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Studio:
    return Studio(tmp_path_factory.mktemp("studio"), request.param)


def pictures_of(done: Sequence[Finished], number: int) -> list[Image.Image]:
    return [one.pixels for one in done if one.number == number and one.pixels is not None]


def plain_step(parts: dict[str, Any], params: PassParams, source: Any, *, output: str = "pil") -> Any:
    """One step of a chain as somebody would write it with diffusers and nothing else."""
    from diffusers import StableDiffusionImg2ImgPipeline

    scheduler = type(parts["scheduler"]).from_config(parts["scheduler"].config)
    pipeline = StableDiffusionImg2ImgPipeline(**{**parts, "scheduler": scheduler})
    pipeline.set_progress_bar_config(disable=True)
    return pipeline(
        params.prompt,
        image=source,
        strength=params.strength,
        negative_prompt=params.negative_prompt,
        num_inference_steps=params.num_inference_steps,
        guidance_scale=params.guidance_scale,
        generator=torch.Generator("cpu").manual_seed(params.seed),
        output_type=output,
    ).images


STEPS = (
    StepWishes(model="first", num_inference_steps=8, strength=0.5),
    StepWishes(model="twin", prompt="a comic", num_inference_steps=8, strength=0.6),
    StepWishes(model="other", prompt="pixels", num_inference_steps=6, strength=0.5),
)


def test_a_vae_is_compared_by_its_content(studio: Studio) -> None:
    prints = {name: vae_fingerprint(studio.card(name), Shelf(), variant=None) for name in studio.cards}
    assert prints["first"] == prints["twin"]
    assert len(set(prints.values())) == 3


def test_latents_are_handed_on_where_the_vae_is_shared_and_pixels_elsewhere(studio: Studio) -> None:
    job = claimed(studio.settle(*STEPS), inputs={"image": png(gradient())})
    (frame,) = prepare_frames(job, {"image": png(gradient())}, studio.builder.may_hand_latents).frames
    assert frame.handovers == ("latents", "pixels")
    larger = (STEPS[0], replace(STEPS[1], width=128, height=128))
    job = claimed(studio.settle(*larger), inputs={"image": png(gradient())})
    (frame,) = prepare_frames(job, {"image": png(gradient())}, studio.builder.may_hand_latents).frames
    assert frame.handovers == ("pixels",)


def test_a_chain_equals_the_one_that_is_written_by_hand(studio: Studio) -> None:
    params = studio.settle(*STEPS)
    inputs = {"image": png(gradient())}
    (made,) = pictures_of(studio.develop(claimed(params, inputs=inputs), inputs), 2)
    first, second, third = params.passes
    latents = plain_step(studio.parts("first"), first, gradient(), output="latent")
    (picture,) = plain_step(studio.parts("twin"), second, latents)
    (expected,) = plain_step(studio.parts("other"), third, picture)
    assert made.tobytes() == expected.tobytes()


def test_text_to_image_to_image_begins_without_a_picture(studio: Studio) -> None:
    wishes = Wishes(prompt="a circle", seed=3, deterministic=True, num_images=2, steps=STEPS[:2])
    first = replace(wishes.steps[0], strength=None, task=Task.TXT2IMG)
    params = settle(replace(wishes, steps=(first, wishes.steps[1])), studio.catalogue, Given(), random_seed=0)
    made = pictures_of(studio.develop(claimed(params), {}), 1)
    single = replace(params, num_images=1, seed=4, then=(replace(params.then[0], seed=4),))
    assert made[1].tobytes() == pictures_of(studio.develop(claimed(single), {}), 1)[0].tobytes()


@pytest.mark.parametrize("scheduler", [None, "heun"])
@pytest.mark.parametrize("finished", [1, 2])
def test_an_interrupted_chain_ends_as_an_uninterrupted_one(
    studio: Studio, finished: int, scheduler: str | None
) -> None:
    params = replace(studio.settle(*STEPS, num_images=2, keep="all", scheduler=scheduler), deterministic=False)
    inputs = {"image": png(gradient())}
    whole = studio.develop(claimed(params, inputs=inputs), inputs)
    steps, stored = [], dict(inputs)
    for number in range(finished):
        made = [one for one in whole if one.number == number]
        data = pack(stored_form(made))
        stored[step_role(number)] = data
        steps.append(DoneStep(number, f"steps/{number}", hashlib.sha256(data).hexdigest()))
    job = replace(claimed(params, inputs=inputs), done_steps=tuple(steps))
    resumed = studio.develop(job, stored)
    assert min(one.number for one in resumed if one.facts) == finished
    for number in range(3):
        expected = [one.tobytes() for one in pictures_of(whole, number)]
        assert [one.tobytes() for one in pictures_of(resumed, number)] == expected


def stored_form(made: Sequence[Finished]) -> Handover:
    latents = tuple(one.latents for one in made if one.latents is not None)
    return Handover(tuple(one.pixels for one in made if one.pixels is not None) or None, latents or None)


def test_a_damaged_step_is_run_again(studio: Studio) -> None:
    params = studio.settle(*STEPS[:2])
    inputs = {"image": png(gradient())}
    whole = studio.develop(claimed(params, inputs=inputs), inputs)
    job = replace(claimed(params, inputs=inputs), done_steps=(DoneStep(0, "steps/0", "0" * 64),))
    again = studio.develop(job, inputs | {step_role(0): b"not it"})
    assert [one.number for one in again] == [0, 1]
    assert pictures_of(again, 1)[0].tobytes() == pictures_of(whole, 1)[0].tobytes()


def test_a_handover_is_stored_as_exactly_what_it_is() -> None:
    latents = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    rows = tuple(latents.contiguous(memory_format=torch.channels_last).unbind())
    data = pack(Handover((gradient(), gradient(blue=1)), rows))
    back = unpack(data)
    assert back.latents is not None
    assert back.pictures is not None
    assert [one.stride() for one in back.latents] == [one.stride() for one in rows]
    assert all(torch.equal(one, other) for one, other in zip(back.latents, rows, strict=True))
    assert [one.tobytes() for one in back.pictures] == [gradient().tobytes(), gradient(blue=1).tobytes()]
    assert pack(back) == data
    with pytest.raises(ValueError, match="damaged"):
        unpack(b"\x08\0\0\0\0\0\0\0nonsense")


def test_frames_of_unlike_starts_do_not_share_a_call(studio: Studio) -> None:
    """One job's second step starts from latents, another's first from a picture: equal keys, unlike tensors."""
    params = studio.settle(*STEPS[:2], deterministic=False)
    inputs = {"image": png(gradient())}
    (frame,) = prepare_frames(claimed(params, inputs=inputs), inputs, studio.builder.may_hand_latents).frames
    made = studio._run([frame])[0]
    second = next_frame(frame, made)
    alone = prepare_frames(
        claimed(studio.settle(STEPS[1], STEPS[1], deterministic=False), job_id="job-2", inputs=inputs), inputs
    ).frames[0]
    assert second.call_key == alone.call_key
    engine = PipelineEngine(pipeline_for("stable_diffusion"), studio.parts("twin"), max_frames=8)
    engine.join(second)
    assert not engine.offer(alone).ok


def test_a_batch_of_chains_is_within_one_level_of_single_ones(studio: Studio) -> None:
    params = studio.settle(*STEPS[:2], num_images=3, deterministic=False)
    inputs = {"image": png(gradient())}
    together = pictures_of(studio.develop(claimed(params, inputs=inputs), inputs), 1)
    for index, picture in enumerate(together):
        seed = params.seed_of(index)
        single = replace(params, num_images=1, seed=seed, then=(replace(params.then[0], seed=seed),))
        (alone,) = pictures_of(studio.develop(claimed(single, inputs=inputs), inputs), 1)
        assert largest_difference(picture, alone) <= 1


def test_a_resumed_refiner_of_a_later_step_knows_nothing_of_the_first_steps_mask(studio: Studio) -> None:
    inpainting = studio.settle(STEPS[0], STEPS[1]).passes
    mask = MaskParams(preserve_unmasked=True)
    first = replace(inpainting[0], task=Task.INPAINT, mask=mask)
    polish = replace(inpainting[1], refines=True, seed=5)
    params = replace(studio.settle(STEPS[0]), task=Task.INPAINT, mask=mask, then=(inpainting[1], polish))
    assert params.passes[0].task is first.task
    box = Image.new("RGB", (64, 64))
    box.paste("white", (8, 8, 40, 40))
    inputs = {"image": png(gradient()), "mask": png(box)}
    whole = studio.develop(claimed(params, inputs=inputs), inputs)
    steps, stored = [], dict(inputs)
    for number in range(2):
        data = pack(stored_form([one for one in whole if one.number == number]))
        stored[step_role(number)] = data
        steps.append(DoneStep(number, f"steps/{number}", hashlib.sha256(data).hexdigest()))
    resumed = studio.develop(replace(claimed(params, inputs=inputs), done_steps=tuple(steps)), stored)
    assert pictures_of(resumed, 2)[0].tobytes() == pictures_of(whole, 2)[0].tobytes()


def test_a_step_without_what_this_worker_hands_on_is_run_again(studio: Studio) -> None:
    params = studio.settle(*STEPS[:2])
    inputs = {"image": png(gradient())}
    whole = studio.develop(claimed(params, inputs=inputs), inputs)
    data = pack(stored_form([one for one in whole if one.number == 0]))
    done = (DoneStep(0, "steps/0", hashlib.sha256(data).hexdigest()),)
    job = replace(claimed(params, inputs=inputs), done_steps=done)
    start = prepare_frames(job, inputs | {step_role(0): data})  # hands pixels on, and there are latents only
    assert [frame.number for frame in start.frames] == [0]
