"""Distilled models: guidance that is an input of the UNet (LCM), and no guidance in a few steps (Turbo, Lightning)."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from inspect import signature
from typing import Any

import pytest

from common.domain.capabilities import Task
from tests.unit.worker.pipelines.conftest import Shop
from tests.unit.worker.step_engine.cases import Case
from tests.unit.worker.step_engine.plain import arguments_of
from tests.unit.worker.step_engine.running import (
    distance,
    engine_of,
    finished,
    latents_of,
    only,
    play,
    rows_of_passes,
)

diffusers = pytest.importorskip("diffusers")
torch = pytest.importorskip("torch")

GUIDANCE_WIDTH = 32
KINDS = {
    ("stable_diffusion", Task.TXT2IMG): "StableDiffusionPipeline",
    ("stable_diffusion", Task.IMG2IMG): "StableDiffusionImg2ImgPipeline",
    ("stable_diffusion", Task.INPAINT): "StableDiffusionInpaintPipeline",
    ("sdxl", Task.TXT2IMG): "StableDiffusionXLPipeline",
    ("sdxl", Task.IMG2IMG): "StableDiffusionXLImg2ImgPipeline",
    ("sdxl", Task.INPAINT): "StableDiffusionXLInpaintPipeline",
}
FAMILIES = sorted({family for family, _ in KINDS})


def lcm_parts(shop: Shop, family: str) -> dict[str, Any]:
    """A checkpoint whose UNet takes the guidance scale as an embedding."""
    parts = shop.parts(family)
    config = {**parts["unet"].config, "time_cond_proj_dim": GUIDANCE_WIDTH}
    torch.manual_seed(0)
    unet = type(parts["unet"]).from_config(config).eval()
    torch.nn.init.normal_(unet.time_embedding.cond_proj.weight, std=0.5)
    return {**parts, "unet": unet, "scheduler": diffusers.LCMScheduler.from_config(parts["scheduler"].config)}


def turbo_parts(shop: Shop, family: str) -> dict[str, Any]:
    """A checkpoint that is to be used with few steps, the first of them at the very beginning of the schedule."""
    parts = shop.parts(family)
    config = {**parts["scheduler"].config, "timestep_spacing": "trailing"}
    return {**parts, "scheduler": diffusers.EulerDiscreteScheduler.from_config(config)}


def lcm_cases(family: str) -> list[Case]:
    """Jobs that differ in the guidance that they ask for, among other things."""
    one = Case(family, Task.TXT2IMG, steps=4, guidance_scale=8.5)
    return [
        one,
        replace(one, guidance_scale=1.0, seed=1),
        replace(one, guidance_scale=2.0, seed=2, prompt="rain", steps=3),
        replace(one, task=Task.IMG2IMG, strength=0.8, seed=3),
        replace(one, task=Task.IMG2IMG, strength=1.0, seed=4, guidance_scale=1.5),
        replace(one, task=Task.INPAINT, strength=1.0, seed=5, guidance_scale=4.0, steps=2),
        replace(one, task=Task.INPAINT, strength=0.9, seed=6, steps=6),
        replace(one, seed=7, steps=1),
    ]


def turbo_cases(family: str) -> list[Case]:
    """Jobs of one to four steps without guidance, and one with."""
    one = Case(family, Task.TXT2IMG, steps=1, guidance_scale=0.0, negative_prompt="")
    return [
        one,
        replace(one, steps=4, seed=1),
        replace(one, steps=2, seed=2, scheduler="euler_ancestral"),
        replace(one, steps=2, seed=3, guidance_scale=1.0),
        replace(one, task=Task.IMG2IMG, strength=0.5, steps=2, seed=4),
        replace(one, task=Task.IMG2IMG, strength=1.0, steps=3, seed=5),
        replace(one, task=Task.INPAINT, strength=1.0, steps=2, seed=6),
        replace(one, steps=4, seed=7, guidance_scale=3.0, negative_prompt="blurry"),
    ]


MODELS = [
    pytest.param(family, make, cases(family), id=f"{family}-{name}")
    for family in FAMILIES
    for name, make, cases in (("lcm", lcm_parts, lcm_cases), ("turbo", turbo_parts, turbo_cases))
]
MakeParts = Callable[[Shop, str], dict[str, Any]]


def plain_latents(parts: Mapping[str, Any], case: Case) -> Any:
    """What a plain call on these parts leaves."""
    kind = getattr(diffusers, KINDS[case.family, case.task])
    known = {name: parts[name] for name in signature(kind).parameters if name in parts}
    config = parts["scheduler"].config
    scheduler = type(parts["scheduler"]).from_config(config)
    if case.scheduler == "euler_ancestral":
        scheduler = diffusers.EulerAncestralDiscreteScheduler.from_config(config)
    pipeline = kind(**known | {"scheduler": scheduler})
    pipeline.set_progress_bar_config(disable=True)
    return pipeline(**arguments_of(case), output_type="latent").images[0]


@pytest.mark.parametrize(("family", "make", "cases"), MODELS)
def test_alone_it_is_the_plain_call_to_the_bit_and_in_company_within_rounding(
    shop: Shop, family: str, make: MakeParts, cases: list[Case]
) -> None:
    parts = make(shop, family)
    expected = {str(case): plain_latents(parts, case) for case in cases}
    together = finished(play(engine_of(family, parts), [case.frame() for case in cases]))
    for case in cases:
        alone = only(play(engine_of(family, parts), [case.frame()]))
        assert torch.equal(latents_of(alone), expected[str(case)])
        assert distance(latents_of(together[str(case)]), expected[str(case)]) <= 5e-5
        assert together[str(case)].facts["batched_with"] == len(cases) - 1


@pytest.mark.parametrize("family", FAMILIES)
def test_guidance_that_is_an_input_needs_no_second_row_and_is_everyones_own(shop: Shop, family: str) -> None:
    parts = lcm_parts(shop, family)
    cases = [Case(family, Task.TXT2IMG, guidance_scale=scale) for scale in (1.0, 4.0, 8.0)]
    with rows_of_passes(parts["unet"]) as passes:
        ends = finished(play(engine_of(family, parts), [case.frame(str(case.guidance_scale)) for case in cases]))
    assert passes == [3] * 4
    one, *others = (latents_of(end) for end in ends.values())
    assert all(distance(one, other) > 0.01 for other in others)


@pytest.mark.parametrize("family", FAMILIES)
def test_without_guidance_a_frame_is_one_row(shop: Shop, family: str) -> None:
    parts = turbo_parts(shop, family)
    frames = [case.frame() for case in turbo_cases(family)[:4]]
    engine = engine_of(family, parts, rows=4)
    with rows_of_passes(parts["unet"]) as passes:
        play(engine, frames)
    assert passes == [4, 3, 1, 1]
