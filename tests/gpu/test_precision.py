"""Half precision on the device against float32 on the CPU, and that the same request is the same picture."""

import hashlib
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image, ImageDraw

from common.domain.capabilities import Task
from common.domain.params import EditParams, MaskParams
from tests.gpu.conftest import Bench, cuda, psnr
from tests.unit.worker.frames import img2img, txt2img
from worker.device import pick_device

ROOT = Path(__file__).parents[2]
INPAINT = img2img(task=Task.INPAINT, mask=MaskParams())


def box() -> Image.Image:
    mask = Image.new("RGB", (64, 64))
    ImageDraw.Draw(mask).rectangle((16, 16, 48, 48), fill="white")
    return mask


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize(
    ("family", "params"),
    [
        ("stable_diffusion", txt2img()),
        ("stable_diffusion", img2img()),
        ("stable_diffusion", INPAINT),
        ("sdxl", txt2img()),
        ("sdxl", img2img()),
        ("kandinsky", img2img()),
    ],
)
def test_half_precision_is_the_picture_of_float32_within_35_db(
    bench: Bench, family: str, params: EditParams, dtype: str
) -> None:
    mask = box() if params.task is Task.INPAINT else None
    (expected,) = bench.develop(bench.engine(family, pick_device("cpu")), params, mask)
    (made,) = bench.develop(bench.engine(family, cuda(dtype)), params, mask)
    assert psnr(made, expected) >= 35


def test_images_of_one_call_are_single_images_within_40_db(bench: Bench) -> None:
    engine = bench.engine("stable_diffusion", cuda())
    params = img2img(num_images=4)
    for index, picture in enumerate(bench.develop(engine, params)):
        (alone,) = bench.develop(engine, replace(params, num_images=1, seed=params.seed_of(index)))
        assert psnr(picture, alone) >= 40


def digest(bench: Bench) -> str:
    (picture,) = bench.develop(bench.engine("stable_diffusion", cuda()), img2img(deterministic=True))
    return hashlib.sha256(picture.tobytes()).hexdigest()


def test_a_deterministic_job_is_the_same_twice_and_in_two_processes(bench: Bench) -> None:
    command = (
        "from pathlib import Path; from tests.gpu.conftest import Bench; from tests.gpu.test_precision import digest;"
        f"print(digest(Bench(Path({str(bench.root)!r}))))"
    )
    here = {digest(bench), digest(bench)}
    ran: Any = subprocess.run([sys.executable, "-c", command], cwd=ROOT, capture_output=True, check=True, text=True)
    assert here == {ran.stdout.splitlines()[-1]}
