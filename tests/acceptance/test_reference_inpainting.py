"""The reference system S4, inpainting, told as its user's story over HTTP: real processes and classes, tiny weights."""

from typing import Any

import pytest

from tests.acceptance.studio import FEW, FIXED, Job, Studio, as_data_url, changed_box, codes, mask, opened, photo

pytestmark = pytest.mark.processes

Source = dict[str, str]
Box = tuple[int, int, int, int]

MIDDLE = (16, 16, 48, 48)


def repainted_box(user: Studio, job: Job) -> Box | None:
    """The smallest box around everything that is not the input any more; outside of it every bit is."""
    return changed_box(user.look(job), opened(photo()))


@pytest.mark.parametrize("model", ["sd15-inpaint", "sd15", "sdxl-inpaint", "sdxl", "kandinsky22-inpaint"])
def test_white_is_repainted_and_black_is_preserved_to_the_last_bit(
    user: Studio, photo_there: Source, model: str
) -> None:
    job = user.edit(**FIXED, image=photo_there, mask=user.upload(mask()), prompt="a cat on a bench", model=model)
    assert (job["task"], codes(job)) == ("inpaint", set())
    assert repainted_box(user, job) == MIDDLE


def test_a_colour_mask_of_another_size_counts_by_its_luminance_and_the_resizing_is_said(
    user: Studio, photo_there: Source
) -> None:
    coloured = as_data_url(mask(32, ground="blue", ink="yellow"))
    job = user.edit(**FIXED, image=photo_there, mask=coloured, prompt="a cat", model="sd15-inpaint")
    assert codes(job) == {"mask_resized"}
    assert repainted_box(user, job) == MIDDLE


@pytest.mark.parametrize(
    ("wish", "box"),
    [
        ({"mask_grow": 4}, (12, 12, 52, 52)),
        ({"inpaint_area": "masked", "inpaint_padding": 8}, MIDDLE),
    ],
)
def test_the_mask_can_grow_and_its_surroundings_can_be_worked_on_at_full_size(
    user: Studio, photo_there: Source, wish: dict[str, Any], box: Box
) -> None:
    job = user.edit(**FIXED, **wish, image=photo_there, mask=as_data_url(mask()), prompt="a cat", model="sd15-inpaint")
    assert repainted_box(user, job) == box


def test_with_the_mask_turned_round_the_middle_is_preserved(user: Studio, photo_there: Source) -> None:
    wish = FIXED | {"image": photo_there, "mask": as_data_url(mask()), "prompt": "a cat", "model": "sd15-inpaint"}
    job = user.edit(**wish, mask_mode="black_repaints")
    assert repainted_box(user, job) == (0, 0, 64, 64)
    assert user.look(job).crop(MIDDLE) == opened(photo()).crop(MIDDLE)


def test_a_blurred_edge_lets_the_repainted_part_fade_out(user: Studio, photo_there: Source) -> None:
    wish = FIXED | {"image": photo_there, "mask": as_data_url(mask()), "prompt": "a cat", "model": "sd15-inpaint"}
    job = user.edit(**wish, mask_blur=2)
    left, top, right, bottom = repainted_box(user, job) or (0, 0, 0, 0)
    assert all(8 <= side < 16 for side in (left, top))
    assert all(48 < side <= 56 for side in (right, bottom))


def test_a_missing_mask_is_refused_and_a_lossy_format_is_warned_of(user: Studio, photo_there: Source) -> None:
    refused = user.submit(task="inpaint", image=photo_there, prompt="a cat", model="sd15-inpaint")
    assert (refused.status_code, refused.json()["code"]) == (422, "mask_missing")
    job = user.edit(
        **FEW, image=photo_there, mask=as_data_url(mask()), prompt="a cat", model="sd15", output={"format": "jpeg"}
    )
    assert codes(job) == {"lossy_output"}
