"""Pictures side by side."""

import pytest
from PIL import Image

from common.images.grid import side_by_side

WHITE = (255, 255, 255)


def test_pictures_stand_next_to_each_other_with_a_gap() -> None:
    sheet = side_by_side([Image.new("RGB", (20, 10), "red"), Image.new("RGB", (30, 40), "blue")], gap=5)
    assert (sheet.mode, sheet.size) == ("RGB", (55, 40))
    assert [sheet.getpixel((x, 5)) for x in (0, 19, 20, 24, 25, 54)] == [
        (255, 0, 0),
        (255, 0, 0),
        WHITE,
        WHITE,
        (0, 0, 255),
        (0, 0, 255),
    ]
    assert sheet.getpixel((10, 20)) == WHITE


def test_nearest_enlarges_pixels_to_squares() -> None:
    dots = Image.new("RGB", (2, 1), "black")
    dots.putpixel((1, 0), WHITE)
    sheet = side_by_side([dots], scale=4, resampling="nearest")
    assert sheet.size == (8, 4)
    assert [sheet.getpixel((x, 3)) for x in range(8)] == [(0, 0, 0)] * 4 + [WHITE] * 4


def test_captions_stand_below_and_leave_the_pictures_alone() -> None:
    picture = Image.new("RGB", (120, 50), "red")
    plain = side_by_side([picture, picture])
    sheet = side_by_side([picture, picture], captions=["before", "after, with a prompt that needs a second line"])
    assert sheet.width == plain.width
    assert sheet.crop((0, 0, *plain.size)).tobytes() == plain.tobytes()
    under_each = [sheet.crop((left, 50, left + 120, sheet.height)) for left in (0, 136)]
    assert all(min(caption.convert("L").tobytes()) < 64 for caption in under_each)


def test_empty_captions_are_allowed() -> None:
    side_by_side([Image.new("RGB", (20, 20))], captions=[""])


def test_a_grid_needs_pictures_and_a_caption_for_each() -> None:
    picture = Image.new("RGB", (20, 20))
    for images, scale, gap in (([], 1, 0), ([picture], 0, 0), ([picture], 1, -1)):
        with pytest.raises(ValueError, match="at least"):
            side_by_side(images, scale=scale, gap=gap)
    with pytest.raises(ValueError, match="1 captions for 2 images"):
        side_by_side([picture, picture], captions=["one"])
