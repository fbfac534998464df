"""Run by `test_model_switching` in a process of its own: two large models, room for one, many switches.

Prints one JSON object: bytes of one model, resident memory after the warm-up and at the end, and how many evicted
engines and UNets were still alive afterwards.
"""

import json
import os
import sys
import weakref
from pathlib import Path
from typing import Any

from common.domain.catalogue import Catalogue, ModelCard, Source, Task
from worker.checkpoints import Shelf
from worker.device import pick_device, use_threads
from worker.engine.building import EngineBuilder
from worker.quiet import quiet_libraries
from worker.residency import Residency

SWITCHES = 20
WARM_UP = 4


def main(folders: list[str]) -> None:
    """Switch to and fro between the models of two folders."""
    quiet_libraries()
    use_threads(1)
    cards = [_card(name, folder) for name, folder in zip("ab", folders, strict=True)]
    builder = EngineBuilder(pick_device("cpu"), Shelf(), Catalogue({card.id: card for card in cards}), max_frames=1)
    residency = Residency(builder, budget_bytes=1)
    survivors, size, warm = 0, 0, 0
    left: list[weakref.ref[Any]] = []
    for number in range(WARM_UP + SWITCHES):
        if number == WARM_UP:
            warm = _resident_bytes()
        engine: Any = residency.engine_for(cards[number % 2])
        survivors += sum(one() is not None for one in left)
        left = [weakref.ref(engine), weakref.ref(engine._loaded().parts["unet"])]
        size = engine.weight_bytes()
        del engine
    print(json.dumps({"model_bytes": size, "warm": warm, "end": _resident_bytes(), "survivors": survivors}))


def _card(model_id: str, folder: str) -> ModelCard:
    source = Source(directory=folder)
    return ModelCard(model_id, model_id, "stable_diffusion", source, frozenset({Task.TXT2IMG}), 64, "none")


def _resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


if __name__ == "__main__":
    main(sys.argv[1:])
