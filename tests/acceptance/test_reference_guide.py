"""The reference system S5, the diffusers guide, told over HTTP: real processes and real classes on tiny weights."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.studio import FIXED, Studio, changed_box, opened, photo, website
from tests.processes.harness import ROOT

pytestmark = pytest.mark.processes

Source = dict[str, str]

STYLES = [
    {"model": "sd15", "prompt": "a castle"},
    {"model": "comic-diffusion", "prompt": "a castle, charliebo artstyle"},
    {"model": "pixel-art", "prompt": "a castle, pixelartstyle"},
]
REFINED = {"model": "sdxl", "prompt": "an astronaut in a jungle"}


@pytest.mark.parametrize(
    ("wish", "effective"),
    [
        ({"model": "sd15"}, 8),
        ({"model": "sdxl"}, 8),
        ({"model": "sdxl", "refiner": {"model": "sdxl-refiner", "switch_at": 0.8}}, 8),
        ({"model": "sdxl", "refiner": {"model": "sdxl-refiner", "strength": 0.5}}, 8 + 5),
        ({"model": "sdxl-refiner"}, 5),
        ({"model": "kandinsky22"}, 3),
    ],
)
def test_every_family_of_the_guide_edits_a_picture(
    user: Studio, photo_there: Source, wish: dict[str, Any], effective: int
) -> None:
    job = user.edit(image=photo_there, prompt="an astronaut in a jungle", num_inference_steps=10, **wish)
    assert job["effective_steps"] == effective
    assert user.look(job).size == (64, 64)
    assert changed_box(user.look(job), opened(photo()))


@pytest.mark.parametrize("name", ["strength", "guidance_scale"])
def test_strength_and_guidance_are_compared_side_by_side_with_the_input(
    user: Studio, photo_there: Source, name: str
) -> None:
    values = {"strength": (0.4, 0.6, 1.0), "guidance_scale": (0.1, 5, 10)}[name]
    wish = FIXED | {"image": photo_there, "prompt": "an astronaut", "model": "sd15", "output": {"grid": True}}
    jobs = [user.edit(**wish, **{name: value}) for value in values]
    low, middle, high = (user.look(job) for job in jobs)
    assert low != middle != high != low
    for job in jobs:
        sheet = user.look_at_grid(job)
        assert sheet.width > 2 * 64
        assert sheet.crop((0, 0, 64, 64)) == opened(photo())
        assert sheet.crop((sheet.width - 64, 0, sheet.width, 64)) == user.look(job)


def test_a_refiner_takes_over_within_the_schedule_or_refines_the_picture_as_a_step_of_a_chain_would(
    user: Studio, photo_there: Source
) -> None:
    wish = FIXED | {"image": photo_there}
    plain = user.look(user.edit(**wish, **REFINED))
    taken_over = user.edit(**wish, **REFINED, refiner={"model": "sdxl-refiner", "switch_at": 0.8})
    assert [one["model"] for one in taken_over["params"]["passes"]] == ["sdxl", "sdxl-refiner"]
    assert user.look(taken_over) != plain
    refined = user.edit(**wish, **REFINED, refiner={"model": "sdxl-refiner", "strength": 0.5})
    chain = user.edit(**wish, steps=[REFINED, REFINED | {"model": "sdxl-refiner", "strength": 0.5}])
    assert user.look(refined) == user.look(chain)
    assert user.look(refined) != plain


def test_text_to_image_to_image_hands_the_picture_on_as_a_second_job_would(user: Studio) -> None:
    steps = [{"model": "sd15", "prompt": "a castle"}, {"model": "kandinsky22", "prompt": "a castle of ice"}]
    chain = user.edit(**FIXED, steps=steps, keep="all")
    assert [(image["step"], image["index"]) for image in chain["images"]] == [(0, 0), (1, 1)]
    source = {"job": chain["id"], "index": 0}
    by_hand = user.edit(**FIXED, image=source, prompt="a castle of ice", model="kandinsky22")
    assert user.look(by_hand) == user.look(chain, 1)


def test_image_to_image_to_image_keeps_every_step_and_spends_no_decoding_between_them(
    user: Studio, photo_there: Source
) -> None:
    kept, last = (user.edit(**FIXED, image=photo_there, steps=STYLES, keep=keep) for keep in ("all", "last"))
    assert [image["step"] for image in kept["images"]] == [0, 1, 2]
    assert user.look(kept, 2) == user.look(last)
    assert [user.handed_on(last, number) for number in (0, 1)] == [{"latents"}, {"latents"}]
    assert [user.handed_on(kept, number) for number in (0, 1)] == [{"latents", "pictures"}] * 2


def test_an_image_given_by_url_gives_what_the_uploaded_one_gives(
    user: Studio, photo_there: Source, tmp_path: Path
) -> None:
    (tmp_path / "cat.png").write_bytes(photo())
    with website(tmp_path) as address:
        by_url = user.edit(**FIXED, image={"url": f"{address}/cat.png"}, prompt="a cat")
    assert user.fetch(by_url) == user.fetch(user.edit(**FIXED, image=photo_there, prompt="a cat"))


@pytest.mark.parametrize("wish", [{"model": "sd15", "prompt": "a castle", "num_images": 2}, {"steps": STYLES}])
def test_what_a_picture_says_of_itself_makes_it_again(
    user: Studio, photo_there: Source, tmp_path: Path, wish: dict[str, Any]
) -> None:
    job = user.edit(**FIXED, **wish, image=photo_there)
    file = tmp_path / "result.png"
    file.write_bytes(user.fetch(job, len(job["images"]) - 1))
    command = [sys.executable, "-m", "client.cli", "show-params", str(file)]
    shown = subprocess.run(command, cwd=ROOT, capture_output=True, check=True)
    again = user.edit(**json.loads(shown.stdout), image=photo_there)
    assert user.fetch(again) == file.read_bytes()
