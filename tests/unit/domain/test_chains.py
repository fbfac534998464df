"""Chains, refiners and inpainting: how several passes are settled, and what is refused."""

from dataclasses import replace
from typing import Any

import pytest

from common.domain.catalogue import AdapterCard, Catalogue, Defaults, ModelCard, Source, Task
from common.domain.errors import Invalid
from common.domain.params import AdapterUse, EditParams
from common.domain.remarks import remarks
from common.domain.settling import Given, settle
from common.domain.steps import effective_steps, scheduled_steps
from common.domain.wishes import RefinerWish, StepWishes, Wishes, drawn_seed, steps_of, wishes_of

SOURCE = Source(bundled="x")


def card(model_id: str, family: str, *tasks: str, **members: Any) -> ModelCard:
    native = members.pop("native_size", 512)
    able = frozenset(Task(task) for task in tasks)
    return ModelCard(
        id=model_id, title="", family=family, source=SOURCE, tasks=able, native_size=native, licence="", **members
    )


LORA = AdapterCard("watercolour", "", SOURCE, "w.safetensors", "")
ALL = ("txt2img", "img2img", "inpaint")
CARDS = [
    card("sd15", "stable_diffusion", *ALL, adapters={LORA.id: LORA}),
    card("sdxl", "sdxl", *ALL, native_size=1024, defaults=Defaults(num_inference_steps=20)),
    card("sdxl-refiner", "sdxl_refiner", "img2img", "inpaint", native_size=1024),
    card("kandinsky22", "kandinsky", "txt2img", "img2img", prior=SOURCE),
    card("kandinsky22-inpaint", "kandinsky_inpaint", "inpaint", prior=SOURCE),
    card("far", "stable_diffusion", *ALL, pool="elsewhere"),
]
CATALOGUE = Catalogue({one.id: one for one in CARDS})


def settled(image: tuple[int, int] | None = (512, 512), *, mask: bool = False, **wishes: Any) -> EditParams:
    members = {"prompt": "x"} | wishes
    return settle(Wishes(**members), CATALOGUE, Given(image, has_mask=mask), random_seed=5)


def refusal(image: tuple[int, int] | None = (512, 512), *, mask: bool = False, **wishes: Any) -> tuple[str, str]:
    with pytest.raises(Invalid) as caught:
        settled(image, mask=mask, **wishes)
    problem = caught.value.problems[0]
    return problem.pointer, problem.code


def step(**members: Any) -> StepWishes:
    return StepWishes(**members)


def test_a_chain_is_one_pass_per_step_and_each_takes_the_size_before() -> None:
    steps = (step(prompt="a", model="sd15"), step(prompt="b", strength=0.3), step(model="kandinsky22"))
    params = settled(None, steps=steps, width=320)
    assert [one.task for one in params.passes] == ["txt2img", "img2img", "img2img"]
    assert [one.model for one in params.passes] == ["sd15", "sd15", "kandinsky22"]
    assert [(one.width, one.height) for one in params.passes] == [(320, 512), (320, 512), (320, 512)]
    assert [one.prompt for one in params.passes] == ["a", "b", "x"]
    assert (params.kept_passes, params.result_count) == ((2,), 1)
    assert replace(params, keep="all", num_images=2).result_count == 6


def test_what_belongs_to_the_input_is_the_first_steps_alone() -> None:
    wishes = Wishes(prompt="x", mask_blur=4, resize="pad", strength=0.4, steps=(step(), step(strength=0.9)))
    first, second = steps_of(wishes)
    assert (first.mask_blur, first.resize, first.strength) == (4, "pad", 0.4)
    assert (second.mask_blur, second.resize, second.strength) == (None, None, 0.9)


def test_a_refiner_takes_over_the_latents_where_the_schedule_is_cut() -> None:
    base, refiner = settled(model="sdxl", strength=0.6, refiner=RefinerWish("sdxl-refiner")).passes
    assert (base.denoising_end, refiner.denoising_start, refiner.refines) == (0.8, 0.8, True)
    assert (base.effective_steps, refiner.effective_steps) == (8, 4)  # as diffusers runs them
    assert (refiner.task, refiner.model, refiner.scheduled_steps) == ("img2img", "sdxl-refiner", 20)


def test_a_refiner_with_a_strength_is_a_pass_of_its_own_within_the_step() -> None:
    params = settled(model="sdxl", refiner=RefinerWish("sdxl-refiner", strength=0.5), keep="all")
    assert [one.effective_steps for one in params.passes] == [16, 10]
    assert params.kept_passes == (1,)


def test_exact_steps_find_the_schedule_of_which_that_many_run() -> None:
    params = settled(strength=0.29, num_inference_steps=30, steps_mode="exact")
    assert (params.effective_steps, params.scheduled_steps) == (30, 104)
    assert effective_steps(104, 0.29) == 30


@pytest.mark.parametrize("strength", [0.01, 0.07, 0.29, 0.57, 0.58, 0.999, 1.0])
@pytest.mark.parametrize("steps", [1, 2, 28, 57, 150])
def test_the_schedule_of_exact_steps_is_the_shortest(steps: int, strength: float) -> None:
    scheduled = scheduled_steps(steps, strength, exact=True)
    assert effective_steps(scheduled, strength) == steps
    assert scheduled == steps or effective_steps(scheduled - 1, strength) < steps


def test_inpainting_is_implied_by_a_mask_and_says_how_it_is_read() -> None:
    params = settled(mask=True, mask_grow=3, inpaint_area="masked", inpaint_padding=8)
    assert params.task is Task.INPAINT
    assert params.mask is not None
    assert (params.mask.grow, params.mask.area, params.mask.padding, params.mask.preserve_unmasked) == (
        3,
        "masked",
        8,
        True,
    )
    assert settled(mask_mode="alpha").task is Task.INPAINT


def test_kandinsky_inpainting_has_no_strength() -> None:
    assert settled(mask=True, model="kandinsky22-inpaint").strength is None
    assert refusal(mask=True, model="kandinsky22-inpaint", strength=0.5) == ("/strength", "unsupported_param")


def test_params_of_every_kind_survive_json() -> None:
    adapters = (AdapterUse("watercolour", 0.5),)
    chain = settled(mask=True, steps=(step(adapters=adapters), step(model="sdxl")), keep="all")
    for params in (chain, settled(model="sdxl", refiner=RefinerWish("sdxl-refiner"))):
        assert EditParams.from_dict(params.as_dict()) == params


def test_wishes_are_read_from_the_json_of_a_request() -> None:
    request = {
        "prompt": "x",
        "task": "img2img",
        "tags": ["ignored"],
        "output": {"format": "jpeg", "quality": 80, "metadata": True, "grid": True},
        "refiner": {"model": "r", "switch_at": None, "strength": 0.2},
        "steps": [{"adapters": [{"id": "a", "weight": 2.0}]}, {"prompt": "y", "seed": None}],
    }
    wishes = wishes_of(request)
    assert (wishes.task, wishes.output.grid, wishes.refiner) == ("img2img", True, RefinerWish("r", None, 0.2))
    assert wishes.steps[0].adapters == (AdapterUse("a", 2.0),)


@pytest.mark.parametrize(
    ("wishes", "expected"),
    [
        ({"model": "nothing"}, ("/model", "unknown_model")),
        ({"task": Task.INPAINT}, ("/mask", "mask_missing")),
        ({"task": Task.IMG2IMG, "mask": True}, ("/mask", "mask_unnecessary")),
        ({"mask_blur": 3}, ("/mask_blur", "unsupported_param")),
        ({"mask": True, "inpaint_padding": 3}, ("/inpaint_padding", "unsupported_param")),
        ({"mask": True, "model": "kandinsky22"}, ("/task", "unsupported_param")),
        ({"scheduler": "eular"}, ("/scheduler", "unsupported_param")),
        ({"model": "kandinsky22", "scheduler": "heun"}, ("/scheduler", "unsupported_param")),
        ({"model": "kandinsky22", "width": 520}, ("/width", "unsupported_param")),
        ({"adapters": (AdapterUse("water"),)}, ("/adapters/0/id", "unsupported_param")),
        ({"adapters": (AdapterUse("watercolour"),) * 2}, ("/adapters", "validation_error")),
        ({"image": None, "resize": "pad"}, ("/resize", "unsupported_param")),
        ({"image": None, "prompt": " "}, ("/prompt", "validation_error")),
        ({"strength": 0.01, "steps_mode": "exact"}, ("/steps_mode", "infeasible")),
        ({"refiner": RefinerWish("sdxl-refiner")}, ("/refiner/model", "unsupported_param")),
        ({"model": "sdxl", "refiner": RefinerWish("far")}, ("/refiner/model", "unsupported_param")),
        ({"model": "sdxl", "refiner": RefinerWish("sdxl-refiner", 0.5, 0.5)}, ("/refiner", "validation_error")),
        (
            {"model": "sdxl", "strength": 0.1, "refiner": RefinerWish("sdxl-refiner")},
            ("/refiner/switch_at", "infeasible"),
        ),
        ({"mask": True, "refiner": RefinerWish("kandinsky22", strength=0.5)}, ("/refiner/model", "unsupported_param")),
        (
            {"image": (640, 480), "refiner": RefinerWish("kandinsky22", strength=0.5)},
            ("/refiner/model", "unsupported_param"),
        ),
        ({"scheduler": "lcm", "num_inference_steps": 51}, ("/num_inference_steps", "infeasible")),
        ({"steps": (step(), step(task=Task.TXT2IMG))}, ("/steps/1/task", "unsupported_param")),
        ({"steps": (step(), step(mask_blur=1))}, ("/steps/1/mask_blur", "unsupported_param")),
        ({"steps": (step(), step(model="far"))}, ("/steps", "infeasible")),
    ],
)
def test_what_a_model_cannot_do_is_refused_with_its_field(wishes: dict[str, Any], expected: tuple[str, str]) -> None:
    assert refusal(**wishes) == expected


def test_a_jobs_strength_is_no_mistake_in_a_step_that_starts_from_noise() -> None:
    params = settled(None, strength=0.4, steps=(step(), step()))
    assert [one.strength for one in params.passes] == [None, 0.4]
    assert refusal(None, steps=(step(strength=0.4), step())) == ("/steps/0/strength", "unsupported_param")


def test_a_refiner_that_does_not_know_the_scheduler_has_its_own() -> None:
    params = settled(scheduler="euler", refiner=RefinerWish("kandinsky22", strength=0.5))
    assert [one.scheduler for one in params.passes] == ["euler", None]


def test_an_inpainting_base_of_nine_channels_is_refined_as_a_picture() -> None:
    cards = {**{one.id: one for one in CARDS}, "xl-fill": card("xl-fill", "sdxl_inpaint", "inpaint")}
    wishes = Wishes(prompt="x", model="xl-fill", refiner=RefinerWish("sdxl-refiner"))
    params = settle(wishes, Catalogue(cards), Given((512, 512), has_mask=True), random_seed=0)
    assert [one.task for one in params.passes] == ["inpaint", "img2img"]


@pytest.mark.parametrize(
    "wishes",
    [
        {},
        {"refiner": RefinerWish("sdxl-refiner"), "model": "sdxl"},
        {"steps": (step(), step())},
        {"steps": (step(seed=8), step(model="sdxl", refiner=RefinerWish("sdxl-refiner")), step(seed=9), step())},
        {"seed": 7},
        {"seed": 7, "steps": (step(), step(seed=8))},
    ],
)
def test_the_seed_that_was_drawn_settles_the_same_again(wishes: dict[str, Any]) -> None:
    asked = Wishes(**({"prompt": "x"} | wishes))
    told = settle(asked, CATALOGUE, Given((512, 512)), random_seed=5)
    again = settle(asked, CATALOGUE, Given((512, 512)), random_seed=drawn_seed(asked, told))
    assert again == told


def test_remarks_speak_of_every_step() -> None:
    wishes = Wishes(
        prompt="x", negative_prompt="y", steps=(step(width=320, height=320), step(guidance_scale=1.0)), mask_blur=1
    )
    params = settle(wishes, CATALOGUE, Given((640, 480), has_mask=True), random_seed=0)
    found = remarks(wishes, params, image=(640, 480), mask=(64, 64))
    assert [(one["code"], one["pointer"]) for one in found] == [
        ("mask_resized", "/mask"),
        ("size_adjusted", "/steps/0/height"),
        ("guidance_off", "/steps/1/negative_prompt"),
    ]


@pytest.mark.parametrize("strength", [1e-310, 1e-300, 7e-25, 1e-9])
def test_a_strength_near_nothing_is_refused_at_once(strength: float) -> None:
    assert refusal(strength=strength, steps_mode="exact") == ("/steps_mode", "infeasible")
    assert refusal(strength=strength) == ("/num_inference_steps", "infeasible")
