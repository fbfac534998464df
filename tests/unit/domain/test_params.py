"""Settling parameters at submit: defaults, sizes, effective steps, and refusals that name the field."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.domain.catalogue import Catalogue, Defaults, ModelCard, Source, Task
from common.domain.errors import Invalid
from common.domain.params import EditParams
from common.domain.settling import Given, settle
from common.domain.sizes import SizeWish, settle_size
from common.domain.steps import effective_steps
from common.domain.wishes import Wishes

CARD = ModelCard(
    id="sd15",
    title="SD",
    family="stable_diffusion",
    source=Source(bundled="x"),
    tasks=frozenset({Task.TXT2IMG, Task.IMG2IMG}),
    native_size=512,
    licence="none",
    defaults=Defaults(strength=0.75),
)


def settled(*, input_size: tuple[int, int] | None = (640, 480), **wishes: Any) -> EditParams:
    return settle(Wishes(prompt="x", **wishes), Catalogue({CARD.id: CARD}), Given(input_size), random_seed=99)


def test_what_is_left_out_comes_from_the_model() -> None:
    params = settled()
    assert (params.task, params.strength, params.guidance_scale, params.num_inference_steps) == (
        "img2img",
        0.75,
        7.5,
        50,
    )
    assert (params.effective_steps, params.seed) == (37, 99)


def test_a_wish_of_zero_is_a_wish() -> None:
    assert settled(guidance_scale=0.0, seed=0).guidance_scale == 0.0
    assert settled(seed=0).seed == 0


def test_without_an_image_the_task_is_txt2img_at_the_native_size() -> None:
    params = settled(input_size=None)
    assert (params.task, params.strength, params.width, params.height) == ("txt2img", None, 512, 512)


def test_seeds_of_later_images_wrap_around() -> None:
    params = settled(seed=2**32 - 1, num_images=2)
    assert [params.seed_of(index) for index in range(2)] == [2**32 - 1, 0]


def test_params_survive_json() -> None:
    params = settled(num_images=3)
    assert EditParams.from_dict(params.as_dict()) == params


@pytest.mark.parametrize(
    ("size", "wished", "expected"),
    [
        ((1024, 1024), (None, None), (512, 512)),
        ((640, 480), (None, None), (592, 440)),
        ((640, 480), (320, None), (320, 240)),
        ((640, 480), (None, 240), (320, 240)),
        ((640, 480), (512, 512), (512, 384)),
        ((16, 8000), (None, None), (64, 2048)),
        (None, (256, None), (256, 512)),
    ],
)
def test_sizes_keep_the_ratio_and_are_multiples_of_8(
    size: tuple[int, int] | None, wished: tuple[int | None, int | None], expected: tuple[int, int]
) -> None:
    assert settle_size(SizeWish(*wished), input_size=size, native_size=512) == expected


@given(st.integers(16, 8192), st.integers(16, 8192), st.sampled_from([64, 128, 512, 1024]))
def test_every_input_settles_on_a_size_that_can_run(width: int, height: int, native: int) -> None:
    for side in settle_size(SizeWish(), input_size=(width, height), native_size=native):
        assert side % 8 == 0
        assert 64 <= side <= 2048


@pytest.mark.parametrize(
    ("steps", "strength", "expected"), [(50, 0.8, 40), (100, 0.29, 28), (100, 0.57, 56), (9, 1.0, 9)]
)
def test_effective_steps_are_those_of_diffusers_float_traps_included(
    steps: int, strength: float, expected: int
) -> None:
    assert effective_steps(steps, strength) == expected


@pytest.mark.parametrize(
    ("wishes", "input_size", "pointer", "code"),
    [
        ({"num_inference_steps": 1, "strength": 0.5}, (64, 64), "/num_inference_steps", "infeasible"),
        ({"task": Task.IMG2IMG}, None, "/image", "validation_error"),
        ({"task": Task.TXT2IMG}, (64, 64), "/image", "unsupported_param"),
        ({"strength": 0.5}, None, "/strength", "unsupported_param"),
    ],
)
def test_what_cannot_run_is_refused_with_its_field(
    wishes: dict[str, Any], input_size: tuple[int, int] | None, pointer: str, code: str
) -> None:
    with pytest.raises(Invalid) as caught:
        settled(input_size=input_size, **wishes)
    assert [(problem.pointer, problem.code) for problem in caught.value.problems] == [(pointer, code)]


def test_a_task_that_the_model_cannot_do_is_refused_with_those_that_it_can() -> None:
    card = ModelCard(
        **{name: getattr(CARD, name) for name in CARD.__dataclass_fields__} | {"tasks": frozenset({Task.IMG2IMG})}
    )
    with pytest.raises(Invalid) as caught:
        settle(Wishes(prompt="x", task=Task.TXT2IMG), Catalogue({card.id: card}), Given(), random_seed=0)
    assert caught.value.problems[0].allowed == ["img2img"]
