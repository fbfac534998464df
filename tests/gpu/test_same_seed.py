"""The same seed on the same device: again, in another process, and in company."""

import subprocess
import sys
from pathlib import Path

import pytest

from common.domain.capabilities import Task
from tests.gpu.studio import RUNS, Studio, develop, job, psnr
from worker.device import Device

ROOT = Path(__file__).parents[2]
IDS = [f"{family}-{task}" for family, task in RUNS]


@pytest.mark.parametrize(("family", "task"), RUNS, ids=IDS)
def test_a_deterministic_job_is_the_same_to_the_byte_when_it_runs_again(
    studio: Studio, half: Device, family: str, task: Task
) -> None:
    params, engine = job(task, num_images=2, deterministic=True), studio.engine(family, half)
    first = [picture.tobytes() for picture in develop(engine, params)]
    assert [picture.tobytes() for picture in develop(engine, params)] == first
    assert [picture.tobytes() for picture in develop(studio.engine(family, half), params)] == first


@pytest.mark.parametrize("family", ["stable_diffusion", "sdxl", "kandinsky"])
def test_a_deterministic_job_is_the_same_to_the_byte_in_another_process(studio: Studio, family: str) -> None:
    studio.card(family)  # saves the checkpoint
    command = [sys.executable, "-m", "tests.gpu.child", "picture", str(studio.root), family]
    ended = [subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=140) for _ in range(2)]
    assert [one.returncode for one in ended] == [0, 0], ended[0].stderr + ended[1].stderr
    first, second = (one.stdout.splitlines()[-1] for one in ended)
    assert first == second


@pytest.mark.parametrize(("family", "task"), RUNS, ids=IDS)
def test_an_image_of_a_batch_is_what_it_is_alone(studio: Studio, half: Device, family: str, task: Task) -> None:
    engine = studio.engine(family, half)
    together = develop(engine, job(task, num_images=4, seed=20))
    for index, picture in enumerate(together):
        (alone,) = develop(engine, job(task, seed=20 + index))
        assert psnr(picture, alone) >= 40
