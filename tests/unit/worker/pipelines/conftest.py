"""Tiny checkpoints of every family, saved once per session."""

import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from tests import tiny_models
from worker.quiet import quiet_libraries

Builder = Callable[[Path], Path]

BUILDERS: Mapping[str, Builder] = {
    "stable_diffusion": tiny_models.save_stable_diffusion,
    "stable_diffusion_2": tiny_models.save_stable_diffusion_2,
    "stable_diffusion_inpaint": tiny_models.save_stable_diffusion_inpaint,
    "sdxl": tiny_models.save_sdxl,
    "sdxl_inpaint": tiny_models.save_sdxl_inpaint,
    "sdxl_refiner": tiny_models.save_sdxl_refiner,
    "kandinsky": tiny_models.save_kandinsky,
    "kandinsky_inpaint": tiny_models.save_kandinsky_inpaint,
    "kandinsky_prior": tiny_models.save_kandinsky_prior,
}


class Shop:
    """The folders and the loaded parts of tiny checkpoints, each made when it is first asked for."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._parts: dict[str, dict[str, Any]] = {}

    def folder(self, name: str) -> Path:
        """The folder of the checkpoint of this name."""
        folder = self._root / name
        return folder if folder.is_dir() else BUILDERS[name](folder)

    def parts(self, family: str) -> dict[str, Any]:
        """The parts of the tiny checkpoint of this family, as a worker loads them."""
        if family not in self._parts:
            self._parts[family] = self.load(family)
        return self._parts[family]

    def load(self, family: str, **how: Any) -> dict[str, Any]:
        """New parts of that checkpoint, which no other test has seen."""
        prior = self.folder("kandinsky_prior") if family.startswith("kandinsky") else None
        return tiny_models.load(self.folder(family), family, prior=prior, **how)

    def plain(self, kind: Any, name: str, **how: Any) -> Any:
        """The pipeline that a user of diffusers would load from that checkpoint."""
        pipeline = kind.from_pretrained(self.folder(name), **how)
        pipeline.set_progress_bar_config(disable=True)
        return pipeline


@pytest.fixture(autouse=True)
def _quiet_numpy() -> None:
    """The Euler and KDPM2 schedulers of diffusers 0.42.1 hand tensors to numpy in a way that numpy will give up."""
    warnings.filterwarnings("ignore", message="__array(_wrap)?__ ", category=DeprecationWarning)


@pytest.fixture(scope="session")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Shop:
    """Where tests get their checkpoints."""
    pytest.importorskip("diffusers")
    quiet_libraries()
    return Shop(tmp_path_factory.mktemp("checkpoints"))
