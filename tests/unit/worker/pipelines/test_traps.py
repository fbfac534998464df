"""What diffusers does otherwise than one would think. A failure here may mean that it has been mended upstream."""

import contextlib
from typing import Any

import pytest

from common.domain.capabilities import Task
from tests.unit.worker.pipelines.conftest import Shop
from tests.unit.worker.pipelines.still import (
    decoded,
    frame_of,
    generator,
    gradient,
    largest_difference,
    latents_of,
    pictures_of,
)
from worker.pipelines import kandinsky, kandinsky_inpaint, registry, sdxl, sdxl_refiner, stable_diffusion

diffusers = pytest.importorskip("diffusers")
torch = pytest.importorskip("torch")

WIDE = (128, 64)


def test_kandinsky_img2img_still_swaps_height_and_width(shop: Shop) -> None:
    """When this fails, `kandinsky.arguments` must stop swapping them back."""
    parts = shop.parts("kandinsky")
    given = kandinsky.arguments(parts, [frame_of(Task.IMG2IMG, size=WIDE)])
    straight = {**given, "width": 128, "height": 64}
    picture = kandinsky.pipeline(parts, Task.IMG2IMG, None)(**straight).images[0]
    assert picture.size == (64, 128)
    assert pictures_of(kandinsky, parts, frame_of(Task.IMG2IMG, size=WIDE))[0].size == WIDE


INPAINTING = ["stable_diffusion", "stable_diffusion_inpaint", "sdxl", "sdxl_inpaint", "sdxl_refiner"]
SIZED = [(name, Task.INPAINT) for name in [*INPAINTING, "kandinsky_inpaint"]]
SIZED += [("kandinsky", Task.TXT2IMG), ("kandinsky", Task.IMG2IMG)]


@pytest.mark.parametrize(("name", "task"), SIZED, ids=[f"{name}-{task}" for name, task in SIZED])
def test_pictures_have_the_size_of_the_request_not_of_the_checkpoint(shop: Shop, name: str, task: Task) -> None:
    family = registry.pipeline_for(name)
    assert pictures_of(family, shop.parts(name), frame_of(task, size=WIDE))[0].size == WIDE


@pytest.mark.parametrize("name", ["stable_diffusion_inpaint", "kandinsky_inpaint"])
def test_without_sizes_inpainting_takes_the_checkpoints_own(shop: Shop, name: str) -> None:
    family, parts = registry.pipeline_for(name), shop.parts(name)
    given = family.arguments(parts, [frame_of(Task.INPAINT, num_inference_steps=2)])
    unsized = {member: value for member, value in given.items() if member not in ("width", "height")}
    latents = family.pipeline(parts, Task.INPAINT, None)(**unsized, output_type="latent").images
    assert latents.shape[-2:] == (64, 64)


@pytest.mark.parametrize(
    ("scheduler", "expected"), [("pndm", 6), ("ddim", 5), ("euler", 5), ("heun", 9), ("kdpm2", 9), ("unipc", 5)]
)
def test_some_schedulers_call_the_model_more_often_than_they_step(shop: Shop, scheduler: str, expected: int) -> None:
    steps: list[tuple[int, int]] = []

    def on_step_end(caller: Any, step: int, _: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        steps.append((step, caller.num_timesteps))
        return tensors

    parts = shop.parts("stable_diffusion")
    frame = frame_of(Task.IMG2IMG, num_inference_steps=10, strength=0.5, scheduler=scheduler)
    pipeline = stable_diffusion.pipeline(parts, Task.IMG2IMG, scheduler)
    pipeline(**stable_diffusion.arguments(parts, [frame]), output_type="latent", callback_on_step_end=on_step_end)
    assert steps == [(number, expected) for number in range(expected)]


def test_a_call_that_failed_while_it_encoded_does_not_leave_the_vae_in_full_precision(shop: Shop) -> None:
    parts = shop.load("sdxl")
    parts["unet"].to(torch.float16)
    assert parts["vae"].dtype == torch.float32
    with contextlib.suppress(RuntimeError):  # the tiny text encoders stay in float32
        sdxl.arguments(parts, [frame_of(Task.IMG2IMG)])
    assert parts["vae"].dtype == torch.float16


def test_a_decode_that_fails_gives_the_vae_its_precision_back(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    parts = shop.load("sdxl")
    parts["vae"].to(torch.float16)

    def fail(*_: Any, **__: Any) -> None:
        raise torch.OutOfMemoryError("no memory")

    monkeypatch.setattr(parts["vae"], "decode", fail)
    with pytest.raises(torch.OutOfMemoryError):
        sdxl.decode(parts, torch.zeros(1, 4, 8, 8, dtype=torch.float16))
    assert parts["vae"].dtype == torch.float16


def test_strength_is_left_out_where_the_refiner_takes_over(shop: Shop) -> None:
    latents = torch.zeros(4, 8, 8)
    taking_over = frame_of(Task.IMG2IMG, latents=latents, denoising_start=0.8)
    given = sdxl_refiner.arguments(shop.parts("sdxl_refiner"), [taking_over])
    assert given["denoising_start"] == 0.8
    assert "strength" not in given
    assert "denoising_end" not in given


def test_kandinsky_inpainting_runs_all_its_steps_whatever_the_strength(shop: Shop) -> None:
    frame = frame_of(Task.INPAINT, strength=0.5, steps_mode="exact", num_inference_steps=6)
    given = kandinsky_inpaint.arguments(shop.parts("kandinsky_inpaint"), [frame])
    assert given["num_inference_steps"] == 6
    assert "strength" not in given


def test_the_kept_region_of_a_nine_channel_sdxl_stays_noisy_when_a_refiner_inpaints_on_its_latents(shop: Shop) -> None:
    """The refiner keeps, outside of the mask, what it was given: noise, unless the base has put the picture back."""
    cut: dict[str, Any] = {"num_inference_steps": 10, "denoising_end": 0.8}
    rest: dict[str, Any] = {"num_inference_steps": 10, "denoising_start": 0.8}
    kept = {}
    for name in ("sdxl", "sdxl_inpaint"):
        family, parts = registry.pipeline_for(name), shop.parts(name)
        begun = latents_of(family, parts, [frame_of(Task.INPAINT, **cut)])
        frame = frame_of(Task.INPAINT, latents=begun[0], **rest)
        refined = latents_of(sdxl_refiner, shop.parts("sdxl_refiner"), [frame])
        assert torch.equal(refined[..., 6:, :], begun[..., 6:, :])
        kept[name] = begun[..., 6:, :]
    vae = shop.parts("sdxl")["vae"]
    picture = diffusers.image_processor.VaeImageProcessor().preprocess(gradient((64, 64)))
    with torch.no_grad():
        clean = vae.encode(picture).latent_dist.mode()[..., 6:, :] * vae.config.scaling_factor
    assert (kept["sdxl"] - clean).abs().mean() < 0.2
    assert (kept["sdxl_inpaint"] - clean).abs().mean() > 0.5


def test_latents_of_any_layout_are_decoded_alike(shop: Shop) -> None:
    latents = torch.randn(1, 4, 8, 8, generator=generator())
    parts = shop.parts("stable_diffusion")
    rows = latents.contiguous(memory_format=torch.channels_last)
    one, other = (decoded(stable_diffusion, parts, tensor)[0] for tensor in (latents, rows))
    assert largest_difference(one, other) <= 1
