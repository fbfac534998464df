"""A UNet compiled by torch against the same one as it is."""

import pytest

from common.domain.capabilities import Task
from tests.gpu.studio import Studio, develop, job, psnr
from worker.device import Device
from worker.engine.pipeline_engine import PipelineEngine
from worker.pipelines.registry import pipeline_for


@pytest.mark.parametrize("family", ["stable_diffusion", "sdxl"])
def test_a_compiled_unet_makes_the_pictures_of_a_plain_one(studio: Studio, half: Device, family: str) -> None:
    """The product does not compile yet: this is what a setting for it could be built on."""
    pytest.importorskip("triton")
    plain, compiled = (studio.parts(family, half) for _ in range(2))
    compiled["unet"].compile()
    params = job(Task.TXT2IMG, num_images=2)
    drawn = [develop(PipelineEngine(pipeline_for(family), parts, max_frames=8), params) for parts in (plain, compiled)]
    assert all(psnr(*pair) >= 40 for pair in zip(*drawn, strict=True))
