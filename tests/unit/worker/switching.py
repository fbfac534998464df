"""Switching between two models in a fresh process: `python -m tests.unit.worker.switching <folder> <folder>`.

Prints one JSON object: what memory did, and whether each model that left is gone. A process of its own, so that nothing
but the models decides its memory.
"""

import gc
import json
import os
import sys
import weakref
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.domain.catalogue import Catalogue, ModelCard
from common.settings import Settings
from tests.tiny_models import card_of, parts, save_stable_diffusion
from tests.unit.worker.frames import frames_of, run, txt2img
from worker.checkpoints import Shelf
from worker.device import pick_device, use_threads
from worker.engine.building import EngineBuilder
from worker.memory import release_memory
from worker.quiet import quiet_libraries
from worker.residency import Residency

WARM_UP = 2
SWITCHES = 20
_WIDE = (320, 640)


@dataclass(frozen=True, slots=True)
class Refs:
    """Weak references to what has to go with a model."""

    engine: "weakref.ref[Any]"
    unet: "weakref.ref[Any]"

    def living(self) -> list[str]:
        """The names of what is still there."""
        return [name for name, ref in (("engine", self.engine), ("unet", self.unet)) if ref() is not None]


def save_wide(folder: Path, *, seed: int, is_half: bool) -> Path:
    """Save a tiny checkpoint with a UNet that takes 310 MB in float32; the folder again.

    From a file in float32 a CPU worker maps its weights; from one in half precision it makes copies.
    """
    import torch

    save_stable_diffusion(folder, seed=seed)
    torch.manual_seed(seed)
    unet = parts.unet(block_out_channels=_WIDE, attention_head_dim=8)
    (unet.half() if is_half else unet).save_pretrained(folder / "unet")
    del unet
    release_memory()
    return folder


def resident_bytes() -> int:
    """What of this process is in memory, mapped files included."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE")


def start_peak() -> None:
    """Count the peak from here on."""
    Path("/proc/self/clear_refs").write_text("5")


def peak_bytes() -> int:
    """The most that was in memory since `start_peak`."""
    lines = Path("/proc/self/status").read_text().splitlines()
    (value,) = (line.split()[1] for line in lines if line.startswith("VmHWM"))
    return int(value) * 1024


def switch(residency: Residency, card: ModelCard) -> Refs:
    """Make this model the resident one and run one step of it, so that all of it is in memory."""
    engine = residency.engine_for(card)
    run(engine, frames_of(txt2img(num_inference_steps=1, effective_steps=1)))
    return Refs(weakref.ref(engine), weakref.ref(_only_unet()))


def _only_unet() -> Any:
    """The one UNet that there is in this process; raises ValueError when there are several."""
    from diffusers import UNet2DConditionModel

    (unet,) = (thing for thing in gc.get_objects() if type(thing) is UNet2DConditionModel)
    return unet


def _room_for_one(folders: list[Path]) -> int:
    """One and a half times the largest checkpoint on disk."""
    sizes = [sum(file.stat().st_size for file in folder.rglob("*.safetensors")) for folder in folders]
    return int(max(sizes) * 1.5)


def _measure(folders: list[Path]) -> dict[str, Any]:
    quiet_libraries()
    use_threads(1)
    cards = [card_of(folder, id=folder.name) for folder in folders]
    builder = EngineBuilder(device=pick_device("cpu"), shelf=Shelf(), catalogue=Catalogue({}), settings=Settings())
    residency = Residency(builder, budget_bytes=_room_for_one(folders))
    before = switch(residency, cards[0])
    model_bytes = residency.engine_for(cards[0]).weight_bytes()
    warm, left = 0, []
    for number in range(1, SWITCHES + WARM_UP + 1):
        now = switch(residency, cards[number % 2])
        left.append({"resident": residency.resident(), "living": before.living()})
        before = now
        if number == WARM_UP:
            warm = resident_bytes()
            start_peak()
    return {
        "model_bytes": model_bytes,
        "switches": left,
        "warm_bytes": warm,
        "end_bytes": resident_bytes(),
        "peak_bytes": peak_bytes(),
    }


if __name__ == "__main__":
    print(json.dumps(_measure([Path(folder) for folder in sys.argv[1:]])))
