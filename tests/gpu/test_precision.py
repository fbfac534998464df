"""Every family on the device against float32 on the CPU, from the same seeds."""

from dataclasses import replace

import pytest

from common.domain.capabilities import Task
from tests.gpu.studio import RUNS, Studio, develop, job, psnr
from worker.device import Device

IDS = [f"{family}-{task}" for family, task in RUNS]


@pytest.mark.parametrize(("family", "task"), RUNS, ids=IDS)
def test_half_precision_makes_the_pictures_of_float32_on_the_cpu(
    studio: Studio, half: Device, family: str, task: Task
) -> None:
    params = job(task, num_images=2)
    made = develop(studio.engine(family, half), params)
    for picture, expected in zip(made, studio.on_cpu(family, params), strict=True):
        assert psnr(picture, expected) >= 35


@pytest.mark.parametrize(("family", "task"), RUNS, ids=IDS)
def test_float32_on_the_device_makes_the_pictures_of_the_cpu(
    studio: Studio, device: Device, family: str, task: Task
) -> None:
    """Not to the byte: convolutions of the device round their inputs to TensorFloat-32."""
    import torch

    params = job(task, num_images=2)
    made = develop(studio.engine(family, replace(device, dtype=torch.float32)), params)
    for picture, expected in zip(made, studio.on_cpu(family, params), strict=True):
        assert psnr(picture, expected) >= 45


def test_a_card_with_bfloat16_units_takes_bfloat16_and_any_other_float16(device: Device) -> None:
    import torch

    is_new = torch.cuda.get_device_capability(device.torch_device) >= (8, 0)
    assert device.dtype == (torch.bfloat16 if is_new else torch.float16)
    assert device.is_half
