"""Frames that share a call do not change one another, and what diffusers cannot share is kept apart."""

from dataclasses import replace
from typing import Any

import pytest

from common.domain.capabilities import FAMILIES, Task
from tests.unit.worker.pipelines.conftest import Shop
from tests.unit.worker.pipelines.still import (
    StillFrame,
    box,
    frame_of,
    gradient,
    largest_difference,
    latents_of,
    pictures_of,
)
from worker.pipelines import calls, kandinsky_inpaint, registry, sdxl, sdxl_refiner

torch = pytest.importorskip("torch")

RUNS = [(family, task) for family, able in FAMILIES.items() if family != "stub" for task in sorted(able.tasks)]


def assert_alone_or_together(shop: Shop, family: str, frames: list[StillFrame]) -> None:
    module, parts = registry.pipeline_for(family), shop.parts(family)
    assert len({module.shape_key(parts, frame) for frame in frames}) == 1
    together = pictures_of(module, parts, *frames)
    alone = [pictures_of(module, parts, frame)[0] for frame in frames]
    assert all(largest_difference(*pair) <= 1 for pair in zip(together, alone, strict=True))
    assert largest_difference(*together) > 1


@pytest.mark.parametrize(("family", "task"), RUNS, ids=[f"{family}-{task}" for family, task in RUNS])
def test_two_frames_in_one_call_are_what_each_is_alone(shop: Shop, family: str, task: Task) -> None:
    shared_picture = family == "kandinsky_inpaint"
    second = frame_of(task, prompt="two blue squares", negative_prompt="", seed=5, blue=128 if shared_picture else 250)
    if task is Task.INPAINT and not shared_picture:
        second = replace(second, mask=box((64, 64), left=30))
    assert_alone_or_together(shop, family, [frame_of(task), second])


def test_two_long_prompts_in_one_call_are_what_each_is_alone(shop: Shop) -> None:
    frames = [frame_of(Task.TXT2IMG, prompt=text * 20, seed=seed) for seed, text in enumerate(("one two ", "six ten "))]
    assert_alone_or_together(shop, "sdxl", frames)


def test_two_unfinished_frames_are_refined_in_one_call(shop: Shop) -> None:
    cut: dict[str, Any] = {"num_inference_steps": 10, "denoising_end": 0.8}
    begun = latents_of(sdxl, shop.parts("sdxl"), [frame_of(Task.TXT2IMG, seed=seed, **cut) for seed in (1, 2)])
    rest: dict[str, Any] = {"num_inference_steps": 10, "denoising_start": 0.8}
    frames = [frame_of(Task.IMG2IMG, seed=seed, latents=begun[seed - 1], **rest) for seed in (1, 2)]
    assert_alone_or_together(shop, sdxl_refiner.NAME, frames)


@pytest.mark.parametrize("other", ["picture", "mask"])
def test_kandinsky_frames_of_unlike_pictures_or_masks_are_kept_apart(shop: Shop, other: str) -> None:
    parts, frame = shop.parts("kandinsky_inpaint"), frame_of(Task.INPAINT)
    changed: dict[str, Any] = {
        "picture": {"image": gradient((64, 64), blue=9)},
        "mask": {"mask": box((64, 64), left=30)},
    }[other]
    unlike = replace(frame, **changed)
    assert kandinsky_inpaint.shape_key(parts, frame) != kandinsky_inpaint.shape_key(parts, unlike)
    # Why: the first frame's kept region is put into all. When this fails, diffusers has mended it.
    together = pictures_of(kandinsky_inpaint, parts, frame, unlike)[1]
    assert largest_difference(together, pictures_of(kandinsky_inpaint, parts, unlike)[0]) > 1


def test_latents_and_pictures_do_not_share_a_call() -> None:
    frames = [frame_of(Task.IMG2IMG), frame_of(Task.IMG2IMG, latents=torch.zeros(4, 8, 8))]
    with pytest.raises(ValueError, match="cannot share a call"):
        calls.pictures_of(frames)


def test_prompts_of_unlike_length_have_unlike_shape_keys(shop: Shop) -> None:
    parts = shop.parts("sdxl")
    lengths = [frame_of(Task.TXT2IMG, prompt="word " * count) for count in (1, 30, 60)]
    assert len({sdxl.shape_key(parts, frame) for frame in lengths}) == 3
