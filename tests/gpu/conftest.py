"""Checks that only a device can answer. Without one every test is skipped with the reason."""

import importlib.util
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from common.domain.params import EditParams
from tests.tiny_models import card_of, load, save_kandinsky, save_kandinsky_prior, save_sdxl, save_stable_diffusion
from tests.unit.worker.frames import frames_of, pictures, run
from worker.device import Device, pick_device
from worker.engine.pipeline_engine import PipelineEngine
from worker.pipelines.registry import pipeline_for

BUILDERS: dict[str, Callable[[Path], Path]] = {
    "stable_diffusion": save_stable_diffusion,
    "sdxl": save_sdxl,
    "kandinsky": save_kandinsky,
}


def has_device() -> bool:
    """Whether torch is installed and sees a CUDA device."""
    if importlib.util.find_spec("torch") is None:
        return False
    import torch

    return torch.cuda.is_available()


def pytest_collection_modifyitems(items: Sequence[pytest.Item]) -> None:
    """Mark what lies here, and skip it where there is no device."""
    own = [item for item in items if Path(__file__).parent in item.path.parents]
    away = pytest.mark.skip(reason="no CUDA device on this machine") if own and not has_device() else None
    for item in own:
        item.add_marker(pytest.mark.gpu)
        if away is not None:
            item.add_marker(away)


@dataclass
class Bench:
    """Tiny random models on any device, and pictures of jobs on them."""

    root: Path

    def parts(self, family: str, device: Device) -> dict[str, Any]:
        prior = self._folder("prior", save_kandinsky_prior) if family == "kandinsky" else None
        return load(self._folder(family, BUILDERS[family]), family, device=device, prior=prior)

    def engine(self, family: str, device: Device, *, max_frames: int = 8) -> PipelineEngine:
        return PipelineEngine(pipeline_for(family), self.parts(family, device), max_frames=max_frames)

    def develop(self, engine: PipelineEngine, params: EditParams, mask: Image.Image | None = None) -> list[Image.Image]:
        made = pictures(run(engine, frames_of(params, mask=mask)))
        return [made["job-1", index] for index in range(params.num_images)]

    def _folder(self, name: str, build: Callable[[Path], Path]) -> Path:
        folder = self.root / name
        return folder if folder.is_dir() else build(folder)


@pytest.fixture(scope="session")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return Bench(tmp_path_factory.mktemp("gpu"))


def cuda(dtype: str | None = None) -> Device:
    """The first device, in its own number format or in the one named."""
    import torch

    device = pick_device("cuda")
    return device if dtype is None else replace(device, dtype=getattr(torch, dtype))


def psnr(one: Image.Image, other: Image.Image) -> float:
    """Peak signal-to-noise ratio in dB of two pictures of 8 bits; infinite for equal ones."""
    import numpy

    difference = numpy.asarray(one, dtype=float) - numpy.asarray(other, dtype=float)
    error = float((difference**2).mean())
    return float("inf") if error == 0 else float(10 * numpy.log10(255**2 / error))


__all__ = ["Bench", "card_of", "cuda", "psnr"]
