"""The recipe of an image settles to what made it."""

import json
from dataclasses import replace
from typing import Any

from hypothesis import given, reject
from hypothesis import strategies as st

from common.domain.capabilities import SCHEDULERS, Task
from common.domain.catalogue import Catalogue, parse_catalogue
from common.domain.errors import Invalid
from common.domain.params import EditParams, PassParams
from common.domain.recipe import recipe_of
from common.domain.settling import Given, settle
from common.domain.wishes import wishes_of

LORA = 'title = "Ink"\nsource = { directory = "/x" }\nweights = "ink.safetensors"\nlicence = "none"'
CARD = 'title = "T"\nfamily = "{}"\nsource = {{ bundled = "x" }}\ntasks = {}\nnative_size = {}\nlicence = "n"'


def card(name: str, family: str, tasks: list[str], size: int, more: str = "") -> str:
    return f"[{name}]\n" + CARD.format(family, json.dumps(tasks), size) + f"\n{more}\n"


EVERY_TASK = ["txt2img", "img2img", "inpaint"]
CATALOGUE: Catalogue = parse_catalogue(
    card("sd", "stable_diffusion", EVERY_TASK, 512, f"[sd.adapters.ink]\n{LORA}\n[sd.adapters.oil]\n{LORA}")
    + card("sdxl", "sdxl", EVERY_TASK, 1024, "defaults = { strength = 0.5 }")
    + card("refiner", "sdxl_refiner", ["img2img", "inpaint"], 1024)
    + card("k22", "kandinsky", ["txt2img", "img2img"], 768, 'prior = { bundled = "y" }')
)

sides = st.integers(8, 256).map(lambda number: number * 8)
strengths = st.sampled_from([0.29, 0.5, 0.57, 0.8, 1.0])
masks = st.fixed_dictionaries(
    {},
    optional={
        "mask_mode": st.sampled_from(["white_repaints", "black_repaints", "alpha"]),
        "mask_blur": st.integers(0, 64),
        "mask_grow": st.integers(0, 128),
        "preserve_unmasked": st.booleans(),
    },
)
areas: st.SearchStrategy[dict[str, Any]] = st.one_of(
    st.just({}),
    st.just({"inpaint_area": "whole"}),
    st.fixed_dictionaries({"inpaint_area": st.just("masked")}, optional={"inpaint_padding": st.integers(0, 64)}),
)
outputs = st.fixed_dictionaries(
    {},
    optional={
        "format": st.sampled_from(["png", "jpeg", "webp"]),
        "quality": st.integers(1, 100),
        "grid": st.booleans(),
        "metadata": st.booleans(),
    },
)
adapters = st.sampled_from(
    [[{"id": "ink", "weight": 0.5}], [{"id": "oil", "weight": 1.0}, {"id": "ink", "weight": -0.25}]]
)
refiners = st.one_of(
    st.just({"model": "refiner"}),
    st.just({"model": "refiner", "switch_at": 0.5}),
    st.fixed_dictionaries({"model": st.sampled_from(["refiner", "sd"]), "strength": strengths}),
)


@st.composite
def steps(draw: st.DrawFn, *, task: str, is_first: bool) -> dict[str, Any]:
    models = ["sd", "sdxl"] if task == "inpaint" else ["sd", "sdxl", "k22"]
    model = draw(st.sampled_from(models))
    optional: dict[str, st.SearchStrategy[Any]] = {
        "negative_prompt": st.text(max_size=5),
        "guidance_scale": st.sampled_from([0.0, 1.0, 7.5]),
        "num_inference_steps": st.integers(20, 150),
        "steps_mode": st.sampled_from(["scaled", "exact"]),
        "seed": st.integers(0, 2**32 - 1),
        "scheduler": st.sampled_from(["ddim", "ddpm"] if model == "k22" else list(SCHEDULERS)),
    }
    if model != "k22":
        optional |= {"width": sides, "height": sides}
    if model == "sd":
        optional["adapters"] = adapters
    if model == "sdxl":
        optional["refiner"] = refiners
    if task != "txt2img":
        optional |= {"strength": strengths, "resize": st.sampled_from(["fit", "fill", "pad", "stretch"])}
    step = {"task": task, "model": model, "prompt": "a cat"} | draw(st.fixed_dictionaries({}, optional=optional))
    return step | (draw(masks) | draw(areas) if task == "inpaint" and is_first else {})


@st.composite
def requests(draw: st.DrawFn) -> tuple[dict[str, Any], Given]:
    """A job request that can be settled, and what is known of its inputs."""
    task = draw(st.sampled_from(EVERY_TASK))
    first = draw(steps(task=task, is_first=True))
    shared = draw(
        st.fixed_dictionaries(
            {"num_images": st.integers(1, 16), "output": outputs},
            optional={"deterministic": st.booleans(), "previews": st.booleans()},
        )
    )
    image = None if task == "txt2img" else draw(st.tuples(st.integers(16, 8192), st.integers(16, 8192)))
    later = draw(st.lists(steps(task="img2img", is_first=False), max_size=3))
    body = {"steps": [first, *later], "keep": draw(st.sampled_from(["last", "all"]))} if later else first
    return body | shared, Given(image, has_mask=task == "inpaint")


def settled(request: dict[str, Any], known: Given, *, random_seed: int = 0) -> EditParams:
    return settle(wishes_of(request), CATALOGUE, known, random_seed=random_seed)


def accepted(request: dict[str, Any], known: Given, *, random_seed: int = 0) -> EditParams:
    """As `settled`; a request that is refused, as one whose refiner would get every step, is no example."""
    try:
        return settled(request, known, random_seed=random_seed)
    except Invalid:
        reject()


def alone(params: EditParams, index: int) -> EditParams:
    """What makes image `index` of `params` and no other; a refiner's `resize` is that of its step."""
    own = [_of_index(one, index) for one in params.passes]
    for number, one in enumerate(own):
        if one.refines:
            own[number] = replace(one, resize=own[number - 1].resize)
    return replace(params, seed=own[0].seed, resize=own[0].resize, then=tuple(own[1:]), num_images=1)


def _of_index(one: PassParams, index: int) -> PassParams:
    is_fit = one.task is not Task.TXT2IMG and one.resize == "fit"
    return replace(one, seed=one.seed_of(index), resize="stretch" if is_fit else one.resize)


@given(requests(), st.integers(0, 15))
def test_a_recipe_settles_to_what_made_the_image(case: tuple[dict[str, Any], Given], index: int) -> None:
    request, known = case
    params = accepted(request, known, random_seed=2**32 - 3)
    recipe = json.loads(json.dumps(recipe_of(params, index)))
    assert settled(recipe, known) == alone(params, index)


@given(requests())
def test_the_recipe_of_a_recipe_is_itself(case: tuple[dict[str, Any], Given]) -> None:
    request, known = case
    recipe = recipe_of(accepted(request, known), 3)
    assert recipe_of(settled(recipe, known), 0) == recipe


def test_a_plain_recipe_is_short_and_complete() -> None:
    params = settled({"prompt": "a cat", "num_images": 3, "seed": 2**32 - 1}, Given((640, 480)))
    assert recipe_of(params, 1) == {
        "task": "img2img",
        "model": "sd",
        "prompt": "a cat",
        "strength": 0.8,
        "guidance_scale": 7.5,
        "num_inference_steps": 50,
        "seed": 0,
        "width": 592,
        "height": 440,
        "resize": "stretch",
        "output": {"format": "png", "quality": 90, "metadata": True, "grid": False},
    }


def test_a_fitted_size_would_shrink_if_it_were_fitted_again() -> None:
    """Why a recipe says `stretch`."""
    params = settled({"prompt": "a cat"}, Given((640, 480)))
    again = recipe_of(params, 0) | {"resize": "fit"}
    assert (params.width, params.height) == (592, 440)
    assert settled(again, Given((640, 480))).width == 584


def test_a_first_steps_scheduler_and_refiner_stay_its_own() -> None:
    chain = {
        "prompt": "a cat",
        "keep": "all",
        "steps": [{"model": "sdxl", "scheduler": "ddim", "refiner": {"model": "refiner"}}, {"model": "sd"}],
    }
    recipe = recipe_of(settled(chain, Given((512, 512))), 0)
    first, second = recipe["steps"]
    assert (first["refiner"], first["scheduler"]) == ({"model": "refiner", "switch_at": 0.8}, "ddim")
    assert not {"refiner", "scheduler"} & set(second)
    assert recipe["keep"] == "all"
    assert "prompt" not in recipe


def test_a_mask_of_the_whole_picture_has_no_padding() -> None:
    request = {"prompt": "a cat", "mask_grow": 4}
    whole = recipe_of(settled(request, Given((512, 512), has_mask=True)), 0)
    assert (whole["task"], whole["mask_grow"], whole["inpaint_area"]) == ("inpaint", 4, "whole")
    assert "inpaint_padding" not in whole
    masked = recipe_of(settled(request | {"inpaint_area": "masked"}, Given((512, 512), has_mask=True)), 0)
    assert masked["inpaint_padding"] == 32
