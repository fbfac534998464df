"""What an inpaint pass sees, and that outside of its mask nothing changes."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from common.domain.capabilities import Task
from common.domain.params import MaskParams, PassParams, Resize
from common.images.canonical import on_white
from worker.pictures.canvas import Canvas, make_canvas
from worker.pictures.geometry import prepare_picture

SIZE = (64, 48)


def inpaint(size: tuple[int, int] = SIZE, *, resize: Resize = "fit", **mask: Any) -> PassParams:
    return PassParams(
        task=Task.INPAINT,
        model="sd",
        prompt="a cat",
        negative_prompt="",
        strength=1.0,
        guidance_scale=7.5,
        num_inference_steps=10,
        effective_steps=10,
        seed=0,
        width=size[0],
        height=size[1],
        resize=resize,
        mask=MaskParams(**mask),
    )


def noise(size: tuple[int, int] = SIZE, mode: str = "RGB", seed: int = 0) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], len(mode)), dtype=np.uint8)
    return Image.fromarray(pixels[:, :, 0] if mode == "L" else pixels, mode)


def spot(size: tuple[int, int] = SIZE, box: tuple[int, int, int, int] = (20, 10, 30, 20)) -> Image.Image:
    mask = Image.new("RGB", size)
    mask.paste("white", box)
    return mask


def painted(canvas: Canvas) -> tuple[Image.Image, Image.Image]:
    """What the model could make, differing everywhere from what it saw, and the completed picture."""
    made = Image.eval(canvas.model_image, lambda value: (value + 128) % 256)
    return made, canvas.complete(made)


def same_where(picture: Image.Image, other: Image.Image, where: Image.Image) -> bool:
    chosen = np.asarray(where) > 0
    return np.array_equal(np.asarray(picture)[chosen], np.asarray(other)[chosen])


def outside(mask: Image.Image) -> Image.Image:
    return mask.point(lambda value: 255 * (value == 0))


# What holds for every mask


@st.composite
def masks(draw: st.DrawFn) -> Image.Image:
    """All black, all white, grey, coloured, with alpha, blurred; of any size."""
    size = draw(st.tuples(st.integers(1, 50), st.integers(1, 50)))
    kind = draw(st.sampled_from(["even", "box", "noise", "RGBA"]))
    if kind == "even":
        return Image.new("RGB", size, (draw(st.sampled_from([0, 127, 128, 255])),) * 3)
    if kind == "box":
        xs = sorted((draw(st.integers(0, size[0])), draw(st.integers(0, size[0]))))
        ys = sorted((draw(st.integers(0, size[1])), draw(st.integers(0, size[1]))))
        return spot(size, (xs[0], ys[0], xs[1], ys[1]))
    return noise(size, "RGBA" if kind == "RGBA" else "RGB", draw(st.integers(0, 99)))


@st.composite
def passes(draw: st.DrawFn) -> PassParams:
    size = draw(st.tuples(st.integers(2, 6), st.integers(2, 6)))
    return inpaint(
        (size[0] * 8, size[1] * 8),
        resize=draw(st.sampled_from(["fit", "fill", "pad", "stretch"])),
        mode=draw(st.sampled_from(["white_repaints", "black_repaints", "alpha"])),
        blur=draw(st.integers(0, 12)),
        grow=draw(st.integers(0, 20)),
        area=draw(st.sampled_from(["whole", "masked"])),
        padding=draw(st.integers(0, 40)),
    )


images = st.builds(
    noise,
    st.tuples(st.integers(16, 60), st.integers(16, 60)),
    st.sampled_from(["RGB", "RGBA"]),
    st.integers(0, 99),
)


@settings(max_examples=300, deadline=None)
@given(images, masks(), passes())
def test_outside_of_the_soft_mask_the_result_is_the_prepared_input(
    image: Image.Image, mask: Image.Image, params: PassParams
) -> None:
    canvas = make_canvas(image, mask, params)
    _, result = painted(canvas)
    assert (result.mode, result.size) == ("RGB", (params.width, params.height))
    assert same_where(result, canvas.prepared, outside(canvas.soft_mask))


@settings(max_examples=200, deadline=None)
@given(images, masks(), passes())
def test_every_canvas_has_the_size_that_runs(image: Image.Image, mask: Image.Image, params: PassParams) -> None:
    canvas = make_canvas(image, mask, params)
    size = (params.width, params.height)
    parts = (canvas.prepared, canvas.model_image, canvas.model_mask, canvas.soft_mask)
    assert [part.mode for part in parts] == ["RGB", "RGB", "L", "L"]
    assert [part.size for part in parts] == [size] * 4
    expected = prepare_picture(on_white(image), size, params.resize)
    assert canvas.prepared.tobytes() == expected.tobytes()


@settings(max_examples=200, deadline=None)
@given(images, masks(), passes())
def test_where_the_mask_is_full_the_result_is_what_the_model_made(
    image: Image.Image, mask: Image.Image, params: PassParams
) -> None:
    canvas = make_canvas(image, mask, params)
    made, result = painted(canvas)
    if canvas.region is None:
        assert same_where(result, made, canvas.soft_mask.point(lambda value: 255 * (value == 255)))


@settings(max_examples=200, deadline=None)
@given(images, masks(), passes())
def test_the_region_holds_everything_that_is_repainted(
    image: Image.Image, mask: Image.Image, params: PassParams
) -> None:
    canvas = make_canvas(image, mask, params)
    if canvas.region is not None:
        beyond = canvas.soft_mask.copy()
        beyond.paste(0, canvas.region)
        assert beyond.getbbox() is None


# Single cases


def test_an_all_black_mask_changes_nothing() -> None:
    for area in ("whole", "masked"):
        canvas = make_canvas(noise(), Image.new("RGB", SIZE), inpaint(area=area, blur=5, grow=9))
        assert painted(canvas)[1].tobytes() == canvas.prepared.tobytes()


def test_an_all_white_mask_takes_everything_that_was_made() -> None:
    canvas = make_canvas(noise(), Image.new("RGB", SIZE, "white"), inpaint(blur=5, grow=9))
    made, result = painted(canvas)
    assert result.tobytes() == made.tobytes()


def test_without_preserving_the_whole_is_what_the_model_made() -> None:
    canvas = make_canvas(noise(), spot(), inpaint(preserve_unmasked=False, blur=3))
    made, result = painted(canvas)
    assert result is made


def test_a_region_without_preserving_leaves_what_is_around_it() -> None:
    canvas = make_canvas(noise(), spot(), inpaint(preserve_unmasked=False, area="masked", padding=4))
    _, result = painted(canvas)
    assert canvas.region == (13, 6, 37, 24)
    around = Image.new("L", SIZE, 255)
    around.paste(0, canvas.region)
    assert same_where(result, canvas.prepared, around)
    assert not same_where(result, canvas.prepared, outside(canvas.soft_mask))


def test_a_masked_area_is_shown_enlarged() -> None:
    image = Image.new("RGB", SIZE, "white")
    image.paste("red", (16, 12, 32, 24))
    canvas = make_canvas(image, spot(box=(16, 12, 32, 24)), inpaint(area="masked", padding=0))
    assert canvas.region == (16, 12, 32, 24)
    assert canvas.model_image.getextrema() == ((255, 255), (0, 0), (0, 0))
    assert canvas.model_mask.getextrema() == (255, 255)


def test_padding_shows_the_surroundings() -> None:
    canvas = make_canvas(noise(), spot(box=(16, 12, 32, 24)), inpaint(area="masked", padding=8))
    assert canvas.region is not None
    assert canvas.region[0] <= 8
    assert canvas.model_mask.getextrema() == (0, 255)


def test_a_completed_region_fits_where_it_was_taken() -> None:
    """Nothing moves: an even picture of the region's own colour leaves no seam."""
    image = Image.new("RGB", SIZE, (10, 200, 30))
    canvas = make_canvas(image, spot(), inpaint(area="masked", blur=4))
    assert canvas.complete(canvas.model_image).tobytes() == canvas.prepared.tobytes()


def test_the_holes_of_the_image_are_the_mask_without_one() -> None:
    image = noise(mode="RGBA")
    image.putalpha(255)
    image.paste((255, 255, 255, 0), (8, 8, 24, 24))
    canvas = make_canvas(image, None, inpaint(mode="alpha"))
    assert canvas.soft_mask.getbbox() == (8, 8, 24, 24)
    assert canvas.prepared.getpixel((10, 10)) == (255, 255, 255)


def test_growing_and_blurring_are_pixels_of_the_size_that_runs() -> None:
    canvas = make_canvas(noise((128, 96)), spot((128, 96), (40, 20, 60, 40)), inpaint(grow=3))
    assert canvas.soft_mask.getbbox() == (17, 7, 33, 23)
    softer = make_canvas(noise((128, 96)), spot((128, 96), (40, 20, 60, 40)), inpaint(grow=3, blur=2))
    assert len(set(softer.soft_mask.tobytes())) > 2


def test_a_canvas_needs_mask_parameters_and_a_mask() -> None:
    with pytest.raises(ValueError, match="only an inpaint pass"):
        make_canvas(noise(), spot(), replace(inpaint(), mask=None))
    with pytest.raises(ValueError, match="needs a mask"):
        make_canvas(noise(), None, inpaint())


@pytest.mark.parametrize("made", [Image.new("RGB", (48, 64)), Image.new("RGBA", SIZE), Image.new("L", SIZE)])
def test_a_model_that_makes_something_else_is_refused(made: Image.Image) -> None:
    with pytest.raises(ValueError, match="the model made"):
        make_canvas(noise(), spot(), inpaint()).complete(made)


def test_a_mask_of_another_shape_is_stretched_over_the_picture_before_both_are_padded() -> None:
    mask = Image.new("RGB", (10, 40), "white")
    canvas = make_canvas(noise((64, 32)), mask, inpaint((64, 64), resize="pad"))
    assert canvas.soft_mask.getbbox() == (0, 16, 64, 48)
