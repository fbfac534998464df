"""Pictures side by side."""

import pytest
from PIL import Image

from common.images.grid import MAX_SHEET_WIDTH, before_and_after, side_by_side

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


def test_the_input_is_scaled_to_the_height_of_its_results() -> None:
    source = Image.new("RGB", (300, 100), "red")
    results = [Image.new("RGB", (40, 20), "blue"), Image.new("RGB", (30, 50), "green")]
    sheet = before_and_after(source, results, gap=5)
    assert sheet.size == (150 + 5 + 40 + 5 + 30, 50)
    assert [sheet.getpixel((x, 49)) for x in (0, 149, 150, 199)] == [(255, 0, 0), (255, 0, 0), WHITE, WHITE]
    assert [sheet.getpixel((x, 19)) for x in (155, 194, 200, 229)] == [(0, 0, 255)] * 2 + [(0, 128, 0)] * 2


def test_the_same_pictures_make_the_same_sheet() -> None:
    source = Image.effect_noise((61, 47), 80).convert("RGB")
    results = [Image.effect_noise((32, 40), 80).convert("RGB") for _ in range(3)]
    assert before_and_after(source, results).tobytes() == before_and_after(source, results).tobytes()


def test_results_stay_as_they_are() -> None:
    results = [Image.effect_noise((32, 40), 80).convert("RGB") for _ in range(2)]
    sheet = before_and_after(Image.new("RGB", (10, 10)), results, gap=4)
    assert sheet.crop((44, 0, 76, 40)).tobytes() == results[0].tobytes()
    assert sheet.crop((80, 0, 112, 40)).tobytes() == results[1].tobytes()


def test_a_sheet_is_never_wider_than_webp_allows() -> None:
    sheet = before_and_after(Image.new("RGB", (2048, 16)), [Image.new("RGB", (2048, 16))] * 16)
    assert MAX_SHEET_WIDTH - 40 <= sheet.width <= MAX_SHEET_WIDTH


def test_a_sheet_needs_a_result() -> None:
    with pytest.raises(ValueError, match="at least one result"):
        before_and_after(Image.new("RGB", (20, 20)), [])
