"""The whole service against plain Celery and diffusers: `python -m benchmarks.service [--workloads W1 W1h W3]`.

A backlog is queued before the clock starts; the time is that until the last picture is in its folder. The service is
API, worker, PostgreSQL and Redis with a local folder as the store; plain Celery is `benchmarks.plain_celery`; loop and
micro-batches run in this process and store nothing. The four run alternately on the same checkpoints, one thread each.
`--busy` measures what share of the time the device thread works, besides (`benchmarks.busy`).
"""

import argparse
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from PIL import Image

from benchmarks import busy
from benchmarks.checkpoints import save_checkpoints
from benchmarks.measuring import goal, ratios, spread, write
from benchmarks.plain_celery import plain_app, queue_backlog
from benchmarks.programs import Program, Taken, loop, micro_batches, tiny_plain
from benchmarks.verifying import compare
from benchmarks.whole import PATIENCE_SECONDS, Whole, bench_redis, cpu_seconds, whole
from benchmarks.workloads import Edit, renewed, workload
from tests.processes.harness import Process, Stack, eventually

WORKLOADS = ("W1", "W1h", "W3")
WARM_UP = 12
GOALS: Mapping[str, Sequence[tuple[str, float]]] = {
    "W1": (("loop", 2.0), ("micro", 1.5), ("celery", 3.0)),
    "W1h": (),
    "W3": (("celery", 3.0),),
}


class PlainCelery:
    """A running plain Celery worker as a program."""

    def __init__(self, folder: Path, queue: str, process: Process) -> None:
        self._folder = folder
        self._process = process
        self._app = plain_app(bench_redis(), queue)

    def __call__(self, edits: Sequence[Edit]) -> Taken:
        """From the opening of a gate before a full queue to the last file."""
        results = self._folder / uuid.uuid4().hex
        results.mkdir()
        gate = results / "gate"
        queue_backlog(self._app, gate, edits, results)
        before, opened_at = cpu_seconds(self._process), time.time()
        gate.touch()
        files = [results / f"{number}.png" for number in range(len(edits))]
        eventually(lambda: all(file.exists() for file in files), seconds=PATIENCE_SECONDS, what="plain Celery's end")
        taken = Taken(len(edits))
        taken.wall = max(file.stat().st_mtime for file in files) - opened_at
        taken.cpu = cpu_seconds(self._process) - before
        taken.pictures = {number: Image.open(file).convert("RGB") for number, file in enumerate(files)}
        return taken


@contextmanager
def plain_celery(folder: Path, checkpoints: Path) -> Iterator[PlainCelery]:
    """A plain worker over these checkpoints, ended with the block."""
    folder.mkdir()
    built, queue = Stack(folder, {}), f"plain-{uuid.uuid4().hex[:8]}"
    names = ("--checkpoints", str(checkpoints), "--broker", bench_redis(), "--queue", queue)
    process = built.start("benchmarks.plain_celery", *names)
    try:
        yield PlainCelery(folder, queue, process)
    finally:
        built.stop()


def measure(programs: Mapping[str, Program], name: str, rounds: int) -> dict[str, Any]:
    """All programs on one workload: seconds, ratios, equal work, goals."""
    edits = workload(name)
    taken: dict[str, list[Taken]] = {each: [] for each in programs}
    for program in programs.values():
        program(renewed(edits[:WARM_UP], 0))
    equal: dict[str, Any] = {}
    for number in range(rounds):
        backlog = renewed(edits, number + 1)
        for each in _turned(list(programs), number):
            taken[each].append(programs[each](backlog))
            print(f"{name} round {number + 1}: {each} {taken[each][-1].wall:.2f} s", flush=True)
        oracle = taken["loop"][-1].pictures
        equal = {each: compare(rounds_of[-1].pictures, oracle) for each, rounds_of in taken.items()}
        for rounds_of in taken.values():
            rounds_of[-1].pictures = {}
    return {"jobs": len(edits), "equal_pictures_in_the_last_round": equal, **_figures(name, taken)}


def _figures(name: str, taken: Mapping[str, Sequence[Taken]]) -> dict[str, Any]:
    wall = {each: [one.wall for one in rounds] for each, rounds in taken.items()}
    cpu = {each: [one.cpu for one in rounds] for each, rounds in taken.items()}
    beside = {
        other: {"wall": ratios(wall[other], wall["service"]), "cpu": ratios(cpu[other], cpu["service"])}
        for other in ("celery", "loop", "micro")
    }
    return {
        "seconds": {each: {"wall": spread(wall[each]), "cpu": spread(cpu[each])} for each in taken},
        "service_vs": beside,
        "goals": goals_of(name, beside),
        "raw_seconds": {"wall": wall, "cpu": cpu},
    }


def goals_of(name: str, beside: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The goals of a workload beside the ratios that were measured; W1h has none, its ratios are told all the same."""
    return [
        goal(f"service >= {least}x {other}, wall clock", least, beside[other]["wall"]["median"])
        for other, least in GOALS[name]
    ]


def _on(service: Whole) -> Program:
    def run(edits: Sequence[Edit]) -> Taken:
        taken, names = service.run(edits)
        taken.pictures = service.pictures(names)
        return taken

    return run


def _turned(names: list[str], by: int) -> list[str]:
    start = by % len(names)
    return names[start:] + names[:start]


def run_all(checkpoints: Path, folder: Path, names: Sequence[str], rounds: int) -> dict[str, Any]:
    """Every workload, on one stack and one plain worker."""
    plain = tiny_plain(checkpoints)
    with whole(folder, checkpoints) as service, plain_celery(folder / "plain", checkpoints) as celery:
        programs: dict[str, Callable[[Sequence[Edit]], Taken]] = {
            "service": _on(service),
            "celery": celery,
            "loop": loop(plain),
            "micro": micro_batches(plain),
        }
        service.warm_up(renewed(workload(names[0], 4), 999))
        return {name: measure(programs, name, rounds) for name in names}


def main() -> None:
    """Measure and write the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--workloads", nargs="*", choices=WORKLOADS, default=list(WORKLOADS))
    parser.add_argument("--busy", action="store_true", help="measure the device thread's share of busy time too")
    arguments = parser.parse_args()
    models = {one for name in WORKLOADS for edit in workload(name) for one in (edit.model, edit.refiner) if one}
    with tempfile.TemporaryDirectory() as place:
        checkpoints, folder = save_checkpoints(Path(place) / "models", models), Path(place) / "stack"
        if arguments.workloads:
            write(
                "service",
                {
                    "what": "backlog until the last picture is stored: the whole service, plain Celery and diffusers, "
                    "and loops in this process; tiny models, one thread each",
                    "encoding": "PNG; the service as it ships (level 1, recipe embedded), the others Pillow's default",
                    "cpu": "of the worker process (service, celery) or of this process (loop, micro)",
                    "workloads": run_all(checkpoints, folder, arguments.workloads, arguments.rounds),
                },
            )
        if arguments.busy:
            write("busy", busy.measure(checkpoints, Path(place), arguments.rounds))


if __name__ == "__main__":
    main()
