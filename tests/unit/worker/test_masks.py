"""Geometry of pictures and masks, and how masks are read, grown, blurred and framed."""

import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from common.domain.params import MaskMode, Resize
from worker.pictures.geometry import prepare_mask, prepare_picture
from worker.pictures.masks import grow, read_mask, region_of, soften

RESIZES: list[Resize] = ["fit", "fill", "pad", "stretch"]
GROW_SECONDS = 0.5

lengths = st.integers(1, 40)
sizes = st.tuples(lengths, lengths)
resizes = st.sampled_from(RESIZES)


def mask_of(rows: list[list[int]]) -> Image.Image:
    return Image.fromarray(np.array(rows, dtype=np.uint8))


def noise(size: tuple[int, int], mode: str = "RGB", seed: int = 0) -> Image.Image:
    channels = len(Image.new(mode, (1, 1)).getbands())
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], channels), dtype=np.uint8)
    return Image.fromarray(pixels[:, :, 0] if channels == 1 else pixels, mode)


# Geometry of pictures


@given(sizes, sizes, resizes)
def test_every_picture_comes_to_exactly_the_size_that_runs(
    own: tuple[int, int], size: tuple[int, int], resize: Resize
) -> None:
    prepared = prepare_picture(noise(own), size, resize)
    assert (prepared.mode, prepared.size) == ("RGB", size)


@settings(max_examples=50, deadline=None)
@given(st.integers(16, 8192), st.integers(16, 8192), st.integers(8, 256), st.integers(8, 256))
def test_no_crop_leaves_the_picture(own_width: int, own_height: int, width: int, height: int) -> None:
    """`fill` of any legal size; the picture is a stand-in, as its box is checked before its pixels are read."""
    stand_in = Image.new("1", (own_width, own_height))
    assert prepare_picture(stand_in, (width * 8, height * 8), "fill").size == (width * 8, height * 8)


@pytest.mark.parametrize("resize", RESIZES)
def test_a_picture_of_the_right_size_is_not_touched(resize: Resize) -> None:
    picture = noise((24, 16))
    assert prepare_picture(picture, (24, 16), resize) is picture


@pytest.mark.parametrize("resize", ["fit", "stretch"])
def test_fit_and_stretch_are_a_plain_lanczos_resize(resize: Resize) -> None:
    picture = noise((24, 16))
    expected = picture.resize((32, 32), Image.Resampling.LANCZOS)
    assert prepare_picture(picture, (32, 32), resize).tobytes() == expected.tobytes()


def test_fill_crops_both_ends_alike() -> None:
    picture = Image.new("RGB", (60, 20), "white")
    picture.paste("red", (0, 0, 20, 20))
    picture.paste("blue", (40, 0, 60, 20))
    filled = prepare_picture(picture, (20, 20), "fill")
    assert filled.getextrema() == ((255, 255), (255, 255), (255, 255))


def test_fill_of_the_same_scale_is_an_exact_crop() -> None:
    picture = noise((30, 20))
    assert prepare_picture(picture, (20, 20), "fill").tobytes() == picture.crop((5, 0, 25, 20)).tobytes()


def test_pad_lays_the_whole_picture_between_black_bars() -> None:
    picture = Image.new("RGB", (20, 10), "red")
    padded = prepare_picture(picture, (40, 40), "pad")
    assert padded.crop((0, 10, 40, 30)).getextrema() == ((255, 255), (0, 0), (0, 0))
    for bar in ((0, 0, 40, 10), (0, 30, 40, 40)):
        assert padded.crop(bar).getbbox() is None


@given(sizes, sizes)
def test_pad_of_the_narrowest_picture_still_shows_it(own: tuple[int, int], size: tuple[int, int]) -> None:
    assert prepare_picture(Image.new("RGB", own, "white"), size, "pad").getbbox() is not None


# Geometry of masks


@given(sizes, sizes, sizes, resizes, st.integers(0, 9))
def test_every_mask_comes_to_exactly_the_size_that_runs_in_black_and_white(
    own: tuple[int, int], source: tuple[int, int], size: tuple[int, int], resize: Resize, seed: int
) -> None:
    prepared = prepare_mask(noise(own, "L", seed), source, size, resize)
    assert (prepared.mode, prepared.size) == ("L", size)
    assert set(np.unique(np.asarray(prepared))) <= {0, 255}


@given(sizes, sizes, sizes, st.sampled_from([0, 127, 128, 255]), resizes)
def test_an_even_mask_stays_even_but_for_bars(
    own: tuple[int, int], source: tuple[int, int], size: tuple[int, int], value: int, resize: Resize
) -> None:
    prepared = np.asarray(prepare_mask(Image.new("L", own, value), source, size, resize))
    if value < 128:
        assert not prepared.any()
    elif resize != "pad":
        assert prepared.all()


def test_grey_repaints_from_128_on() -> None:
    mask = mask_of([[0, 1, 127, 128, 129, 255]])
    assert list(prepare_mask(mask, mask.size, mask.size, "fit").tobytes()) == [0, 0, 0, 255, 255, 255]


def test_the_bars_of_pad_are_kept() -> None:
    prepared = prepare_mask(Image.new("L", (20, 10), 255), (20, 10), (40, 40), "pad")
    assert prepared.getbbox() == (0, 10, 40, 30)


@pytest.mark.parametrize("resize", RESIZES)
def test_a_mask_of_another_size_lies_on_the_picture_as_one_of_its_own(resize: Resize) -> None:
    """The mask is square, the picture is not: it is stretched to the picture first, and cropped or padded with it."""
    small = Image.new("L", (10, 10))
    small.paste(255, (0, 0, 5, 10))
    own = Image.new("L", (80, 40))
    own.paste(255, (0, 0, 40, 40))
    apart = np.asarray(prepare_mask(small, (80, 40), (64, 64), resize)) != np.asarray(
        prepare_mask(own, (80, 40), (64, 64), resize)
    )
    assert apart.mean() < 0.02


@pytest.mark.parametrize("resize", RESIZES)
def test_mask_and_picture_move_alike(resize: Resize) -> None:
    picture = Image.new("RGB", (90, 50))
    picture.paste("white", (30, 10, 70, 30))
    mask = picture.convert("L")
    moved = prepare_picture(picture, (48, 64), resize).convert("L").point(lambda value: 255 * (value >= 128))
    apart = np.asarray(moved) != np.asarray(prepare_mask(mask, (90, 50), (48, 64), resize))
    assert apart.mean() < 0.02


# Reading


OPAQUE = Image.new("RGB", (4, 4), "white")


@pytest.mark.parametrize(
    ("pixel", "mode", "expected"),
    [
        ((255, 255, 255), "white_repaints", 255),
        ((0, 0, 0), "white_repaints", 0),
        ((99, 99, 99), "white_repaints", 99),
        ((255, 0, 0), "white_repaints", 76),
        ((255, 255, 255, 0), "white_repaints", 0),
        ((255, 255, 255, 128), "white_repaints", 128),
        ((255, 255, 255), "black_repaints", 0),
        ((0, 0, 0), "black_repaints", 255),
        ((99, 99, 99), "black_repaints", 156),
        ((0, 0, 0, 0), "black_repaints", 0),
        ((0, 0, 0, 255), "black_repaints", 255),
        ((0, 0, 0), "alpha", 0),
        ((0, 0, 0, 0), "alpha", 255),
        ((255, 255, 255, 0), "alpha", 255),
        ((1, 2, 3, 100), "alpha", 155),
    ],
)
def test_a_mask_is_read_by_its_mode(pixel: tuple[int, ...], mode: MaskMode, expected: int) -> None:
    mask = Image.new("RGB" if len(pixel) == 3 else "RGBA", (4, 4), pixel)
    read = read_mask(mask, OPAQUE, mode)
    assert (read.mode, read.size, read.getextrema()) == ("L", (4, 4), (expected, expected))


def test_without_a_mask_the_holes_of_the_image_are_repainted() -> None:
    image = Image.new("RGBA", (4, 2), "red")
    image.putpixel((1, 0), (255, 255, 255, 0))
    assert read_mask(None, image, "alpha").getbbox() == (1, 0, 2, 1)


def test_the_holes_of_the_mask_go_before_those_of_the_image() -> None:
    holes = Image.new("RGBA", (4, 4))
    assert read_mask(OPAQUE, holes, "alpha").getbbox() is None


def test_an_opaque_picture_has_nothing_to_repaint() -> None:
    assert read_mask(None, OPAQUE, "alpha").getbbox() is None


@pytest.mark.parametrize("mode", ["white_repaints", "black_repaints"])
def test_only_alpha_goes_without_a_mask(mode: MaskMode) -> None:
    with pytest.raises(ValueError, match="needs a mask"):
        read_mask(None, OPAQUE, mode)


# Growing and blurring


def grown_slowly(pixels: NDArray[np.uint8], radius: int) -> NDArray[np.uint8]:
    height, width = pixels.shape
    grown = np.zeros_like(pixels)
    for y in range(height):
        for x in range(width):
            near = pixels[max(0, y - radius) : y + radius + 1, max(0, x - radius) : x + radius + 1]
            grown[y, x] = near.max()
    return grown


@given(st.tuples(st.integers(1, 20), st.integers(1, 20)), st.integers(0, 30), st.integers(0, 9))
def test_growing_takes_the_brightest_of_the_square(size: tuple[int, int], radius: int, seed: int) -> None:
    mask = noise(size, "L", seed)
    assert np.array_equal(np.asarray(grow(mask, radius)), grown_slowly(np.asarray(mask), radius))


@pytest.mark.parametrize("radius", [1, 2, 3, 7])
def test_growing_is_pillows_maximum_filter(radius: int) -> None:
    mask = noise((64, 48), "L")
    inside = (radius, radius, 64 - radius, 48 - radius)
    expected = mask.filter(ImageFilter.MaxFilter(2 * radius + 1))
    assert grow(mask, radius).crop(inside).tobytes() == expected.crop(inside).tobytes()


def test_growing_and_blurring_by_nothing_changes_nothing() -> None:
    mask = noise((8, 8), "L")
    assert grow(mask, 0) is mask
    assert soften(mask, 0) is mask


def test_the_largest_mask_grows_in_a_moment() -> None:
    mask = Image.new("L", (2048, 2048))
    mask.putpixel((1000, 1000), 255)
    started = time.perf_counter()
    grown = grow(mask, 128)
    assert time.perf_counter() - started < GROW_SECONDS
    assert grown.getbbox() == (872, 872, 1129, 1129)


@given(st.sampled_from([0, 255]), st.integers(1, 64), sizes)
def test_blurring_leaves_an_even_mask_as_it_is(value: int, radius: int, size: tuple[int, int]) -> None:
    assert soften(Image.new("L", size, value), radius).getextrema() == (value, value)


def test_blurring_spreads_to_both_sides_of_an_edge() -> None:
    mask = Image.new("L", (40, 8))
    mask.paste(255, (20, 0, 40, 8))
    row = list(soften(mask, 3).crop((0, 4, 40, 5)).tobytes())
    assert row == sorted(row)
    assert 0 < row[18] < 128 < row[21] < 255
    assert (row[0], row[-1]) == (0, 255)


# The region


@given(
    st.tuples(st.integers(8, 60), st.integers(8, 60)),
    st.tuples(st.integers(0, 59), st.integers(0, 59), st.integers(0, 59), st.integers(0, 59)),
    st.integers(0, 64),
)
def test_a_region_holds_the_mask_and_its_padding_and_stays_inside(
    size: tuple[int, int], corners: tuple[int, int, int, int], padding: int
) -> None:
    width, height = size
    xs, ys = sorted((corners[0] % width, corners[2] % width)), sorted((corners[1] % height, corners[3] % height))
    mask = Image.new("L", size)
    mask.paste(1, (xs[0], ys[0], xs[1] + 1, ys[1] + 1))
    left, top, right, bottom = region_of(mask, padding, size)
    assert 0 <= left <= max(0, xs[0] - padding)
    assert 0 <= top <= max(0, ys[0] - padding)
    assert min(width, xs[1] + 1 + padding) <= right <= width
    assert min(height, ys[1] + 1 + padding) <= bottom <= height
    ratio = width / height
    assert abs((right - left) - (bottom - top) * ratio) <= max(1.0, ratio)


def test_a_region_is_widened_about_its_middle_and_shifted_at_an_edge() -> None:
    mask = Image.new("L", (100, 100))
    mask.paste(255, (40, 45, 60, 55))
    assert region_of(mask, 5, (100, 100)) == (35, 35, 65, 65)
    mask = Image.new("L", (100, 100))
    mask.paste(255, (0, 90, 40, 100))
    assert region_of(mask, 0, (100, 100)) == (0, 60, 40, 100)


def test_a_region_goes_as_far_as_the_picture_when_its_ratio_does_not_fit() -> None:
    mask = Image.new("L", (50, 100), 255)
    assert region_of(mask, 8, (100, 50)) == (0, 0, 50, 100)


def test_a_mask_of_nothing_has_the_whole_picture_as_its_region() -> None:
    assert region_of(Image.new("L", (30, 20)), 5, (30, 20)) == (0, 0, 30, 20)
