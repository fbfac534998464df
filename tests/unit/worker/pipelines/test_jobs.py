"""Whole jobs, from settled parameters to pictures, on every family: against plain diffusers calls and against masks."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import pytest
from PIL import Image, ImageChops, ImageDraw, ImageFilter

from common.domain.capabilities import FAMILIES, Task
from common.domain.catalogue import Catalogue
from common.domain.params import EditParams
from common.domain.settling import Given, settle
from common.domain.wishes import RefinerWish, Wishes
from tests.tiny_models import card_of
from tests.unit.worker.frames import claimed, png, run
from tests.unit.worker.pipelines.conftest import Shop
from tests.unit.worker.pipelines.still import box, generator, gradient, largest_difference
from worker.engine.frames import complete, next_frame, prepare_frames
from worker.engine.pipeline_engine import PipelineEngine
from worker.engine.port import Engine, Finished, Prepared
from worker.pictures.canvas import make_canvas
from worker.pipelines.registry import pipeline_for

diffusers = pytest.importorskip("diffusers")

SIZE = (64, 64)
KINDS = {
    "stable_diffusion": "StableDiffusion",
    "stable_diffusion_inpaint": "StableDiffusion",
    "sdxl": "StableDiffusionXL",
    "sdxl_inpaint": "StableDiffusionXL",
    "sdxl_refiner": "StableDiffusionXL",
    "kandinsky": "KandinskyV22",
    "kandinsky_inpaint": "KandinskyV22",
}
CALLS = {Task.TXT2IMG: "Pipeline", Task.IMG2IMG: "Img2ImgPipeline", Task.INPAINT: "InpaintPipeline"}
EVERY = [(family, task) for family in KINDS for task in sorted(FAMILIES[family].tasks)]
INPAINTING = [family for family, task in EVERY if task is Task.INPAINT]
TEXTS = {"prompt": "a red circle", "negative_prompt": "blurry"}


@dataclass
class Lab:
    """Settles and develops jobs on the tiny checkpoints of a shop."""

    shop: Shop

    def settle(self, family: str, task: Task, **wishes: Any) -> EditParams:
        cards = [card_of(self.shop.folder(name), id=name, family=name, prior=self._prior(name)) for name in KINDS]
        members = TEXTS | {"model": family, "task": task, "seed": 11, "guidance_scale": 5.0} | wishes
        members |= {"num_inference_steps": wishes.get("num_inference_steps", 4)}
        given = Given(None if task is Task.TXT2IMG else SIZE, has_mask=task is Task.INPAINT)
        return settle(Wishes(**members), Catalogue({card.id: card for card in cards}), given, random_seed=0)

    def develop(
        self, params: EditParams, picture: Image.Image | None = None, mask: Image.Image | None = None
    ) -> list[Image.Image]:
        inputs = {} if params.task is Task.TXT2IMG else {"image": png(picture or gradient(SIZE))}
        inputs |= {"mask": png(as_canonical(mask or box(SIZE)))} if params.task is Task.INPAINT else {}
        frames: Sequence[Prepared] = prepare_frames(claimed(params, inputs=inputs), inputs).frames
        for number in range(len(params.passes)):
            made = self._run(params.passes[number].model, frames)
            if number < len(params.then):
                frames = [next_frame(frame, one) for frame, one in zip(frames, made, strict=True)]
        pictures = [one.pixels for one in made if one.pixels is not None]
        assert len(pictures) == params.num_images
        return pictures

    def engine(self, family: str) -> Engine:
        return PipelineEngine(pipeline_for(family), self.shop.parts(family), max_frames=8)

    def _run(self, family: str, frames: Sequence[Prepared]) -> list[Finished]:
        events = run(self.engine(family), frames)
        ended = {event.ref: event for event in events if isinstance(event, Finished)}
        assert len(ended) == len(frames), events
        return [
            one if one.pixels is None else replace(one, pixels=complete(frame, one.pixels))
            for frame, one in ((frame, ended[frame.ref]) for frame in frames)
        ]

    def _prior(self, name: str) -> Any:
        return self.shop.folder("kandinsky_prior") if name.startswith("kandinsky") else None

    def plain(self, family: str, task: Task, params: EditParams, seed: int) -> Image.Image:
        """What somebody would write with diffusers and nothing else."""
        pipeline = self.shop.plain(
            getattr(diffusers, KINDS[family] + CALLS[task]), family, **pipeline_for(family).LOADING
        )
        given: dict[str, Any] = {} if task is Task.TXT2IMG else {"image": gradient(SIZE)}
        given |= {"mask_image": box(SIZE)} if task is Task.INPAINT else {}
        given |= {} if params.strength is None else {"strength": params.strength}
        is_kandinsky = family.startswith("kandinsky")
        if task is not Task.IMG2IMG or is_kandinsky:
            given |= {"width": SIZE[0], "height": SIZE[1]}
        given |= self._embeddings(seed) if is_kandinsky else TEXTS
        made = pipeline(**given, num_inference_steps=4, guidance_scale=5.0, generator=generator(seed))
        picture: Image.Image = made.images[0]
        return picture

    def _embeddings(self, seed: int) -> dict[str, Any]:
        made = self.shop.plain(diffusers.KandinskyV22PriorPipeline, "kandinsky_prior")(
            **TEXTS, generator=generator(seed)
        )
        return {"image_embeds": made.image_embeds, "negative_image_embeds": made.negative_image_embeds}


@pytest.fixture(scope="module")
def lab(shop: Shop) -> Lab:
    return Lab(shop)


@pytest.mark.parametrize(("family", "task"), EVERY)
def test_images_of_a_deterministic_job_are_plain_calls_to_the_byte(lab: Lab, family: str, task: Task) -> None:
    wishes: dict[str, Any] = {"preserve_unmasked": False} if task is Task.INPAINT else {}
    params = lab.settle(family, task, deterministic=True, num_images=2, **wishes)
    for index, picture in enumerate(lab.develop(params)):
        assert picture.tobytes() == lab.plain(family, task, params, params.seed_of(index)).tobytes()


@pytest.mark.parametrize(("family", "task"), EVERY)
def test_image_k_of_a_batch_is_the_single_image_with_seed_plus_k_within_a_level(
    lab: Lab, family: str, task: Task
) -> None:
    params = lab.settle(family, task, num_images=3)
    together = lab.develop(params)
    for index in (0, 2):
        (alone,) = lab.develop(replace(params, num_images=1, seed=params.seed_of(index)))
        assert largest_difference(together[index], alone) <= 1


def masks() -> dict[str, Image.Image]:
    soft = box((64, 64)).filter(ImageFilter.GaussianBlur(6))
    coloured = Image.merge("RGB", (box(SIZE), box(SIZE), Image.new("L", SIZE, 0)))
    clear = Image.new("RGBA", SIZE, (255, 255, 255, 0))
    ImageDraw.Draw(clear).rectangle((20, 20, 40, 40), fill=(255, 255, 255, 255))
    return {
        "white": Image.new("L", SIZE, 255),
        "black": Image.new("L", SIZE, 0),
        "grey": Image.new("L", SIZE, 127),
        "coloured": coloured,
        "alpha": clear,
        "blurred": soft,
        "larger": box((64, 64)).resize((160, 120)),
    }


@pytest.mark.parametrize("family", INPAINTING)
def test_outside_of_the_mask_the_prepared_input_is_kept_exactly(lab: Lab, family: str) -> None:
    for number, (name, mask) in enumerate(masks().items()):
        area = "masked" if number % 2 else "whole"
        params = lab.settle(
            family,
            Task.INPAINT,
            num_inference_steps=2,
            mask_blur=number,
            mask_grow=2 * number % 5,
            inpaint_area=area,
            deterministic=True,
        )
        (made,) = lab.develop(params, mask=as_canonical(mask))
        canvas = make_canvas(gradient(SIZE), as_canonical(mask), params)
        outside = canvas.soft_mask.point([255, *[0] * 255])
        changed = ImageChops.multiply(ImageChops.difference(made, canvas.prepared), outside.convert("RGB"))
        assert changed.getbbox() is None, name
        if name in {"white", "coloured", "blurred", "larger", "alpha"}:
            assert ImageChops.difference(made, canvas.prepared).getbbox() is not None, name


def as_canonical(mask: Image.Image) -> Image.Image:
    """As the decoder stores it: RGB, or RGBA where something is transparent."""
    return mask if mask.mode == "RGBA" else mask.convert("RGB")


@pytest.mark.parametrize("family", ["sdxl", "sdxl_inpaint"])
@pytest.mark.parametrize("wish", [RefinerWish("sdxl_refiner"), RefinerWish("sdxl_refiner", strength=0.5)])
def test_a_refined_inpainting_keeps_the_rest_too(lab: Lab, family: str, wish: RefinerWish) -> None:
    params = lab.settle(family, Task.INPAINT, refiner=wish, num_inference_steps=10, deterministic=True)
    (made,) = lab.develop(params)
    outside = box(SIZE).point(lambda level: 255 - level)
    assert ImageChops.multiply(ImageChops.difference(made, gradient(SIZE)), outside.convert("RGB")).getbbox() is None
    (unrefined,) = lab.develop(replace(params, then=(), denoising_end=None))
    assert made.tobytes() != unrefined.tobytes()


@pytest.mark.parametrize("task", [Task.TXT2IMG, Task.IMG2IMG])
def test_a_job_with_a_refiner_is_the_plain_ensemble(lab: Lab, task: Task) -> None:
    params = lab.settle("sdxl", task, refiner=RefinerWish("sdxl_refiner"), num_inference_steps=10, deterministic=True)
    (made,) = lab.develop(params)
    base = lab.shop.plain(getattr(diffusers, "StableDiffusionXL" + CALLS[task]), "sdxl")
    refiner = lab.shop.plain(diffusers.StableDiffusionXLImg2ImgPipeline, "sdxl_refiner")
    given = {"width": 64, "height": 64} if task is Task.TXT2IMG else {"image": gradient(SIZE), "strength": 0.8}
    common = TEXTS | {"num_inference_steps": 10, "guidance_scale": 5.0}
    latents = base(**common, **given, denoising_end=0.8, output_type="latent", generator=generator(11)).images
    expected = refiner(**common, image=latents, denoising_start=0.8, generator=generator(11)).images[0]
    assert made.tobytes() == expected.tobytes()
