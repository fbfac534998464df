"""What share of the time the device thread works under a backlog, with a fast store and with one of 200 ms per put.

The worker runs in this process, so that its own account (`worker.usage`) can be read for the backlog alone: seconds in
which the device thread worked, of those from its first work to its last.
"""

import time
from pathlib import Path
from typing import Any

from benchmarks.measuring import goal, spread
from benchmarks.slow_store import slow_store
from benchmarks.whole import whole
from benchmarks.workloads import renewed, workload
from common.catalogue_file import load_catalogue
from common.logging import configure_logging
from tests.processes.harness import Stack
from worker.checkpoints.places import Shelf
from worker.device import pick_device, use_threads
from worker.engine.building import EngineBuilder
from worker.quiet import quiet_libraries
from worker.runtime import Runtime

JOBS = 128
PUT_SECONDS = 0.2
GOAL = 0.95


class InProcess:
    """A worker on threads of this process; implements `benchmarks.whole.Worker`."""

    def __init__(self, built: Stack) -> None:
        settings = built.settings
        configure_logging(settings.model_copy(update={"log_level": "error"}), "worker")
        quiet_libraries()
        use_threads(1)
        self._is_dead = False
        device, catalogue = pick_device("cpu"), load_catalogue(settings)
        builder = EngineBuilder(device=device, shelf=Shelf(), catalogue=catalogue, settings=settings)
        self.runtime = Runtime(
            settings, device="cpu", catalogue=catalogue, build_engine=builder, on_death=self._note_death
        )
        self.runtime.start()

    def check(self) -> None:
        """See `Worker`."""
        if self._is_dead:
            raise RuntimeError("a thread of the worker died")

    def cpu_seconds(self) -> float:
        """Of this process, the benchmark's polling included."""
        return time.process_time()

    def ring(self) -> None:
        """See `Worker`."""
        self.runtime.ring()

    def stop(self) -> None:
        """See `Worker`."""
        self.runtime.drain()

    def _note_death(self) -> None:
        self._is_dead = True


def measure(checkpoints: Path, folder: Path, rounds: int) -> dict[str, Any]:
    """The share with both stores, alternately, each on a fresh stack."""
    found: dict[str, list[dict[str, float]]] = {"folder": [], "slow": []}
    for number in range(rounds):
        found["folder"].append(_one(checkpoints, folder / f"folder-{number}", number))
        with slow_store(PUT_SECONDS) as url:
            found["slow"].append(_one(checkpoints, folder / f"slow-{number}", number, DARKROOM_STORE_URL=url))
        print(f"busy, round {number + 1}: { ({name: rounds_of[-1] for name, rounds_of in found.items()}) }", flush=True)
    shares = {name: [one["busy_share"] for one in rounds_of] for name, rounds_of in found.items()}
    return {
        "what": f"device thread's busy share under a backlog of {JOBS} jobs of W1 with PNG output, one CPU worker",
        "slow_store_put_seconds": PUT_SECONDS,
        "busy_share": {name: spread(values) for name, values in shares.items()},
        "wall_seconds": {name: spread([one["wall_seconds"] for one in found[name]]) for name in found},
        "goals": [
            goal(f"busy share with the {name} store >= {GOAL}", GOAL, spread(values)["median"])
            for name, values in shares.items()
        ],
        "raw": found,
    }


def _one(checkpoints: Path, folder: Path, number: int, **environment: str) -> dict[str, float]:
    edits = workload("W1", JOBS)
    workers: list[InProcess] = []

    def start(built: Stack) -> InProcess:
        workers.append(InProcess(built))
        return workers[0]

    with whole(folder, checkpoints, start, **environment) as service:
        service.warm_up(renewed(edits[:8], 900 + number))
        workers[0].runtime.usage.reset()
        taken, _ = service.run(renewed(edits, number))
        busy, between = workers[0].runtime.usage.seconds()
    return {
        "wall_seconds": round(taken.wall, 3),
        "busy_seconds": round(busy, 3),
        "busy_share": round(busy / between, 4),
        "busy_share_of_wall": round(busy / taken.wall, 4),
    }
