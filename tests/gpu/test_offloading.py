"""Models whose parts wait in main memory: the same pictures, with less of the device's memory."""

from dataclasses import replace
from typing import Any

import pytest

from common.domain.capabilities import Task
from tests.gpu.memory import need_of
from tests.gpu.studio import Studio, develop, job, psnr
from worker.device import Device
from worker.engine.offloading import Stage, largest_bytes, offload
from worker.engine.pipeline_engine import PipelineEngine
from worker.memory import release_memory, weight_bytes
from worker.pipelines.registry import pipeline_for

SLACK_BYTES = 32 << 20  # what the libraries keep, and the allocator's granularity


def offloaded(studio: Studio, name: str, device: Device) -> tuple[dict[str, Any], Stage]:
    import torch

    parts = studio.parts(name, replace(device, torch_device=torch.device("cpu")))
    return parts, offload(parts, device.torch_device)


def places(parts: dict[str, Any]) -> set[str]:
    import torch

    modules = (part for part in parts.values() if isinstance(part, torch.nn.Module))
    return {tensor.device.type for part in modules for tensor in (*part.parameters(), *part.buffers())}


@pytest.mark.parametrize("family", ["stable_diffusion", "sdxl", "kandinsky"])
def test_an_offloaded_model_makes_the_pictures_of_a_resident_one(studio: Studio, half: Device, family: str) -> None:
    params = job(Task.IMG2IMG, num_images=2)
    expected = develop(studio.engine(family, half), params)
    parts, stage = offloaded(studio, family, half)
    engine = PipelineEngine(pipeline_for(family), parts, max_frames=8)
    for _ in range(2):
        made = develop(engine, params)
        assert places(parts) == {"cpu", half.torch_device.type}
        stage.clear()
        assert places(parts) == {"cpu"}
        assert all(psnr(*pair) >= 40 for pair in zip(made, expected, strict=True))


def test_an_offloaded_model_takes_the_memory_of_its_largest_part_and_none_between_calls(
    studio: Studio, half: Device
) -> None:
    import torch

    params, family = job(Task.TXT2IMG), pipeline_for("stable_diffusion")
    release_memory()
    free = torch.cuda.memory_allocated()
    parts, stage = offloaded(studio, "wide", half)
    engine = PipelineEngine(family, parts, max_frames=8)

    def work() -> None:
        develop(engine, params)
        stage.clear()

    need = need_of(work)
    assert torch.cuda.memory_allocated() <= free + SLACK_BYTES
    resident = PipelineEngine(family, studio.parts("wide", half), max_frames=8)
    activations = need_of(lambda: develop(resident, params)).least
    assert need.least <= largest_bytes(parts) + activations + SLACK_BYTES
    assert largest_bytes(parts) < weight_bytes(parts.values())
