"""Cards for tiny checkpoints, and loading them as a worker does."""

from pathlib import Path
from typing import Any

from common.domain.capabilities import FAMILIES, Task
from common.domain.catalogue import ModelCard, Source
from tests.tiny_models.parts import NATIVE_SIZE
from tests.tiny_models.stable_diffusion import save_stable_diffusion
from worker.checkpoints import Shelf, load_components
from worker.device import Device, pick_device


def card_of(folder: Path, *, prior: Path | Source | None = None, **changes: Any) -> ModelCard:
    """A card for a checkpoint that lies in this folder; it does all that its family can."""
    family = changes.get("family", "stable_diffusion")
    members: dict[str, Any] = {
        "id": "tiny",
        "title": "Tiny",
        "family": family,
        "source": Source(directory=str(folder)),
        "prior": Source(directory=str(prior)) if isinstance(prior, Path) else prior,
        "tasks": FAMILIES[family].tasks if family in FAMILIES else frozenset(Task),
        "native_size": NATIVE_SIZE,
        "licence": "none",
    }
    return ModelCard(**members | changes)


def load(folder: Path, family: str, *, device: Device | None = None, prior: Path | None = None) -> dict[str, Any]:
    """The parts of a checkpoint in this folder, by way of the production loader."""
    return load_components(card_of(folder, family=family, prior=prior), device or pick_device("cpu"), Shelf())


def load_stable_diffusion(folder: Path, *, device: Device | None = None, **changes: Any) -> dict[str, Any]:
    """The parts of a new tiny checkpoint, by way of the folder and the production loader."""
    return load(save_stable_diffusion(folder, **changes), "stable_diffusion", device=device)
