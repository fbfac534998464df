"""One frame is, to the byte, the picture of the plain diffusers call that a user would write."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from PIL import Image

from common.domain.capabilities import Task
from tests.unit.worker.pipelines.conftest import Shop
from tests.unit.worker.pipelines.still import (
    STEPS,
    box,
    decoded,
    frame_of,
    generator,
    gradient,
    latents_of,
    pictures_of,
)
from worker.device import pick_device
from worker.pipelines import (
    kandinsky,
    kandinsky_inpaint,
    sdxl,
    sdxl_inpaint,
    sdxl_refiner,
    stable_diffusion,
    stable_diffusion_inpaint,
)
from worker.pipelines.family import Family

diffusers = pytest.importorskip("diffusers")
torch = pytest.importorskip("torch")

WIDE = (128, 64)
TEXTS = {"prompt": "a red circle", "negative_prompt": "blurry"}
COMMON = {"num_inference_steps": STEPS, "guidance_scale": 5.0}
MASKED = {"image": gradient(WIDE), "mask_image": box(WIDE), "width": 128, "height": 64, "strength": 0.6}

SD, SDXL = "StableDiffusion", "StableDiffusionXL"
CASES = [
    (stable_diffusion, "stable_diffusion", Task.TXT2IMG, f"{SD}Pipeline", {"width": 128, "height": 64}),
    (
        stable_diffusion,
        "stable_diffusion",
        Task.IMG2IMG,
        f"{SD}Img2ImgPipeline",
        {"image": gradient(WIDE), "strength": 0.6},
    ),
    (stable_diffusion, "stable_diffusion", Task.INPAINT, f"{SD}InpaintPipeline", MASKED),
    (stable_diffusion, "stable_diffusion_2", Task.TXT2IMG, f"{SD}Pipeline", {"width": 128, "height": 64}),
    (stable_diffusion_inpaint, "stable_diffusion_inpaint", Task.INPAINT, f"{SD}InpaintPipeline", MASKED),
    (sdxl, "sdxl", Task.TXT2IMG, f"{SDXL}Pipeline", {"width": 128, "height": 64}),
    (sdxl, "sdxl", Task.IMG2IMG, f"{SDXL}Img2ImgPipeline", {"image": gradient(WIDE), "strength": 0.6}),
    (sdxl, "sdxl", Task.INPAINT, f"{SDXL}InpaintPipeline", MASKED),
    (sdxl_inpaint, "sdxl_inpaint", Task.INPAINT, f"{SDXL}InpaintPipeline", MASKED),
    (sdxl_refiner, "sdxl_refiner", Task.IMG2IMG, f"{SDXL}Img2ImgPipeline", {"image": gradient(WIDE), "strength": 0.6}),
    (sdxl_refiner, "sdxl_refiner", Task.INPAINT, f"{SDXL}InpaintPipeline", MASKED),
]


def same(one: Image.Image, other: Image.Image) -> bool:
    return one.size == other.size and one.tobytes() == other.tobytes()


@pytest.fixture
def parts_of(shop: Shop) -> Callable[[str], dict[str, Any]]:
    """The parts of a checkpoint by its name, which may be another than its family's."""

    def parts(name: str) -> dict[str, Any]:
        if name == "stable_diffusion_2":
            from tests.tiny_models import load

            return load(shop.folder(name), "stable_diffusion")
        return shop.parts(name)

    return parts


@pytest.mark.parametrize(
    ("family", "name", "task", "kind", "given"), CASES, ids=[f"{case[1]}-{case[2]}" for case in CASES]
)
def test_a_frame_is_the_plain_call(
    shop: Shop,
    parts_of: Callable[[str], dict[str, Any]],
    family: Family,
    name: str,
    task: Task,
    kind: str,
    given: dict[str, Any],
) -> None:
    plain = shop.plain(getattr(diffusers, kind), name, **family.LOADING)
    expected = plain(**TEXTS, **COMMON, **given, generator=generator()).images[0]
    (picture,) = pictures_of(family, parts_of(name), frame_of(task, size=WIDE))
    assert picture.size == WIDE
    assert same(picture, expected)


def test_a_frame_with_another_scheduler_is_the_plain_call_with_it(shop: Shop) -> None:
    plain = shop.plain(diffusers.StableDiffusionXLPipeline, "sdxl")
    kind = diffusers.DPMSolverMultistepScheduler
    plain.scheduler = kind.from_config(plain.scheduler.config, use_karras_sigmas=True)
    expected = plain(**TEXTS, **COMMON, width=64, height=64, generator=generator()).images[0]
    (picture,) = pictures_of(sdxl, shop.parts("sdxl"), frame_of(Task.TXT2IMG, scheduler="dpmpp_2m_karras"))
    assert same(picture, expected)


@pytest.mark.filterwarnings("ignore:.*upcast_vae.*:FutureWarning")
def test_half_precision_is_the_plain_call_and_the_vae_is_as_before(shop: Shop) -> None:
    device = replace(pick_device("cpu"), dtype=torch.float16)
    plain = shop.plain(diffusers.StableDiffusionXLImg2ImgPipeline, "sdxl", dtype=torch.float16)
    expected = plain(**TEXTS, **COMMON, image=gradient((64, 64)), strength=0.6, generator=generator()).images[0]
    parts = shop.load("sdxl", device=device)
    (picture,) = pictures_of(sdxl, parts, frame_of(Task.IMG2IMG))
    assert same(picture, expected)
    assert parts["vae"].dtype == torch.float16


def test_latents_with_their_own_mean_are_decoded_as_the_plain_call_does(
    shop: Shop, tmp_path_factory: pytest.TempPathFactory
) -> None:
    from tests.tiny_models import load, save_sdxl

    shifts: dict[str, Any] = {"latents_mean": [-1.6, 1.9, -1.4, 2.5], "latents_std": [8.5, 5.9, 6.5, 5.2]}
    folder = save_sdxl(tmp_path_factory.mktemp("shifted") / "sdxl", **shifts)
    plain = diffusers.StableDiffusionXLPipeline.from_pretrained(folder)
    plain.set_progress_bar_config(disable=True)
    expected = plain(**TEXTS, **COMMON, width=64, height=64, generator=generator()).images[0]
    assert same(pictures_of(sdxl, load(folder, "sdxl"), frame_of(Task.TXT2IMG))[0], expected)


@pytest.mark.parametrize(
    ("family", "kind"), [(stable_diffusion, f"{SD}Img2ImgPipeline"), (sdxl, f"{SDXL}Img2ImgPipeline")]
)
def test_a_frame_that_starts_from_latents_is_the_plain_call_with_them(shop: Shop, family: Family, kind: str) -> None:
    latents = torch.randn(4, 8, 16, generator=generator(3))
    plain = shop.plain(getattr(diffusers, kind), family.NAME)
    expected = plain(**TEXTS, **COMMON, image=latents[None], strength=0.6, generator=generator()).images[0]
    frame = frame_of(Task.IMG2IMG, latents=latents, size=WIDE)
    assert same(pictures_of(family, shop.parts(family.NAME), frame)[0], expected)


@pytest.mark.parametrize("scheduler", [None, "dpmpp_2m", "heun"])
@pytest.mark.parametrize("task", list(Task))
def test_a_base_and_its_refiner_are_the_plain_ensemble(shop: Shop, task: Task, scheduler: str | None) -> None:
    steps = {"num_inference_steps": 10, "guidance_scale": 5.0}
    sources: dict[Task, Any] = {
        Task.TXT2IMG: {"width": 128, "height": 64},
        Task.IMG2IMG: {"image": gradient(WIDE), "strength": 0.6},
        Task.INPAINT: MASKED,
    }
    kinds = {Task.TXT2IMG: "", Task.IMG2IMG: "Img2Img", Task.INPAINT: "Inpaint"}
    base = shop.plain(getattr(diffusers, f"{SDXL}{kinds[task]}Pipeline"), "sdxl")
    follows = Task.INPAINT if task is Task.INPAINT else Task.IMG2IMG
    refiner = shop.plain(getattr(diffusers, f"{SDXL}{kinds[follows]}Pipeline"), "sdxl_refiner")
    schedulers = {"dpmpp_2m": diffusers.DPMSolverMultistepScheduler, "heun": diffusers.HeunDiscreteScheduler}
    if scheduler is not None:
        for plain in (base, refiner):
            plain.scheduler = schedulers[scheduler].from_config(plain.scheduler.config)
    unfinished = base(
        **TEXTS, **steps, **sources[task], denoising_end=0.8, output_type="latent", generator=generator()
    ).images
    masked = {"mask_image": box(WIDE), "width": 128, "height": 64} if follows is Task.INPAINT else {}
    expected = refiner(**TEXTS, **steps, **masked, image=unfinished, denoising_start=0.8, generator=generator()).images[
        0
    ]

    common: dict[str, Any] = {"size": WIDE, "num_inference_steps": 10, "scheduler": scheduler}
    begun = latents_of(sdxl, shop.parts("sdxl"), [frame_of(task, denoising_end=0.8, **common)])
    assert torch.equal(begun, unfinished)
    frame = frame_of(follows, latents=begun[0], denoising_start=0.8, **common)
    assert same(pictures_of(sdxl_refiner, shop.parts("sdxl_refiner"), frame)[0], expected)


def _embeddings(shop: Shop) -> dict[str, Any]:
    prior = shop.plain(diffusers.KandinskyV22PriorPipeline, "kandinsky_prior")
    made = prior(**TEXTS, generator=generator())
    return {"image_embeds": made.image_embeds, "negative_image_embeds": made.negative_image_embeds}


@pytest.mark.parametrize(
    ("family", "task", "kind", "given"),
    [
        (kandinsky, Task.TXT2IMG, "KandinskyV22Pipeline", {"width": 128, "height": 64}),
        # diffusers 0.42.1 takes them the wrong way round.
        (
            kandinsky,
            Task.IMG2IMG,
            "KandinskyV22Img2ImgPipeline",
            {"width": 64, "height": 128, "image": gradient(WIDE), "strength": 0.6},
        ),
        (
            kandinsky_inpaint,
            Task.INPAINT,
            "KandinskyV22InpaintPipeline",
            {"width": 128, "height": 64, "image": gradient(WIDE), "mask_image": box(WIDE)},
        ),
    ],
    ids=["txt2img", "img2img", "inpaint"],
)
def test_a_frame_is_the_two_plain_calls_of_prior_and_decoder(
    shop: Shop, family: Family, task: Task, kind: str, given: dict[str, Any]
) -> None:
    plain = shop.plain(getattr(diffusers, kind), family.NAME)
    expected = plain(**_embeddings(shop), **COMMON, **given, generator=generator()).images[0]
    (picture,) = pictures_of(family, shop.parts(family.NAME), frame_of(task, size=WIDE))
    assert picture.size == WIDE
    assert same(picture, expected)


def test_the_same_frame_again_is_the_same_picture_whatever_ran_between(shop: Shop) -> None:
    parts = shop.parts("sdxl")
    first = pictures_of(sdxl, parts, frame_of(Task.IMG2IMG))[0]
    pictures_of(sdxl, parts, frame_of(Task.TXT2IMG, prompt="something else", scheduler="heun"))
    assert same(pictures_of(sdxl, parts, frame_of(Task.IMG2IMG))[0], first)


def test_no_watermark_is_drawn(shop: Shop) -> None:
    assert all(sdxl.pipeline(shop.parts("sdxl"), task, None).watermark is None for task in Task)


@pytest.mark.parametrize("task", [Task.IMG2IMG, Task.INPAINT])
def test_the_settings_of_a_checkpoint_survive_the_building_of_a_new_pipeline(shop: Shop, task: Task) -> None:
    refiner = sdxl_refiner.pipeline(shop.parts("sdxl_refiner"), task, None)
    assert refiner.config.requires_aesthetics_score is True
    assert refiner.config.force_zeros_for_empty_prompt is False
    base = sdxl.pipeline(shop.parts("sdxl"), task, None)
    assert base.config.requires_aesthetics_score is False
    assert base.config.force_zeros_for_empty_prompt is True


def test_decoding_twice_gives_the_same(shop: Shop) -> None:
    latents = torch.randn(1, 4, 8, 8, generator=generator())
    parts = shop.parts("kandinsky")
    assert same(decoded(kandinsky, parts, latents)[0], decoded(kandinsky, parts, latents)[0])
