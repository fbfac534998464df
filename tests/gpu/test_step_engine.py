"""The step engine on a device: the pictures of the pipeline engine, alone and in company, with every scheduler."""

import pytest

from common.domain.capabilities import SCHEDULERS, Task
from tests.gpu.studio import RUNS, Studio, develop, finished, frames, job, psnr
from tests.unit.worker.frames import run
from worker.device import Device

IDS = [f"{family}-{task}" for family, task in RUNS]
LEAST_DB = 40.0


@pytest.mark.parametrize(("family", "task"), RUNS, ids=IDS)
def test_a_frame_alone_is_the_picture_of_the_pipeline_engine(
    studio: Studio, half: Device, family: str, task: Task
) -> None:
    params = job(task, deterministic=True)
    (expected,) = develop(studio.engine(family, half), params)
    (picture,) = develop(studio.engine(family, half, "step"), params)
    assert psnr(picture, expected) >= LEAST_DB


@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_a_scheduler_whose_timesteps_stay_on_the_host_makes_the_same_picture(
    studio: Studio, half: Device, scheduler: str
) -> None:
    params = job(Task.IMG2IMG, scheduler=scheduler, num_inference_steps=10, deterministic=True)
    (expected,) = develop(studio.engine("stable_diffusion", half), params)
    (picture,) = develop(studio.engine("stable_diffusion", half, "step"), params)
    assert psnr(picture, expected) >= LEAST_DB


@pytest.mark.parametrize("family", ["stable_diffusion", "sdxl", "kandinsky"])
def test_unlike_frames_that_share_their_passes_are_what_they_are_alone(
    studio: Studio, half: Device, family: str
) -> None:
    engine = studio.engine(family, half, "step")
    jobs = [
        job(Task.TXT2IMG, num_images=2, seed=1),
        job(Task.IMG2IMG, num_inference_steps=12, strength=0.8, seed=2),
        job(Task.TXT2IMG, num_inference_steps=6, effective_steps=6, guidance_scale=1.0, seed=3),
    ]
    alone = [picture for params in jobs for picture in develop(engine, params)]
    company = [frame for number, params in enumerate(jobs) for frame in frames(params, job_id=f"job-{number}")]
    made = {(one.ref.job_id, one.ref.index): one for one in finished(run(engine, company))}
    together = [made[frame.ref.job_id, frame.ref.index] for frame in company]
    assert all(one.facts["peak_rows"] > 2 for one in together)
    pairs = [(one.pixels, other) for one, other in zip(together, alone, strict=True)]
    assert all(picture is not None and psnr(picture, other) >= LEAST_DB for picture, other in pairs)
