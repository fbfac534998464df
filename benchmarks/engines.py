"""Our engines against plain diffusers on the same loaded weights, in one process: `python -m benchmarks.engines`.

Every round runs every program on the same backlog, in an order that moves on by one from round to round; ratios are
taken within a round. Workloads W1, W1h and W2 of `benchmarks.workloads`; `--latency` measures jobs that arrive one by
one as well (`benchmarks.latency`).
"""

import argparse
import statistics
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks import latency
from benchmarks.checkpoints import FAMILIES, save_checkpoints
from benchmarks.measuring import goal, ratios, spread, write
from benchmarks.plain import Plain
from benchmarks.programs import (
    MOST_IMAGES,
    MOST_ROWS,
    Program,
    Taken,
    groups_alike,
    load_per_call,
    loop,
    micro_batches,
    on_engine,
    pipeline_engine,
    step_engine,
    tiny_plain,
)
from benchmarks.verifying import RowCounter, compare
from benchmarks.workloads import Edit, renewed, workload

WORKLOADS = ("W1", "W1h", "W2")
WARM_UP = 12
LOADING_JOBS = 4
GOALS: Mapping[str, Sequence[tuple[str, float]]] = {
    "W1": (("loop", 2.5), ("micro", 1.8)),
    "W1h": (("micro", 0.97),),
    "W2": (("loop", 1.0), ("micro", 0.97)),
}


def programs_for(plain: Plain, model: str) -> dict[str, Program]:
    """Every program by its name, all on the same weights."""
    family = FAMILIES[model]
    return {
        "loop": loop(plain),
        "micro": micro_batches(plain),
        "pipeline": on_engine(pipeline_engine(plain, model, family), is_picking=True),
        "step": on_engine(step_engine(plain, model, family), is_picking=False),
    }


def measure(plain: Plain, name: str, rounds: int) -> dict[str, Any]:
    """All programs on one workload: seconds, ratios, equal work, goals."""
    edits = workload(name)
    model = edits[0].model
    programs = programs_for(plain, model)
    for program in programs.values():
        program(renewed(edits[:WARM_UP], 0))
    equal = verify(plain.pipeline(model).unet, programs, edits)
    taken: dict[str, list[Taken]] = {each: [] for each in (*programs, "load_per_call")}
    loading = load_per_call(Plain(plain.folder))
    for number in range(rounds):
        backlog = renewed(edits, number + 1)
        for each in _turned(list(taken), number):
            run = loading if each == "load_per_call" else programs[each]
            taken[each].append(run(backlog[:LOADING_JOBS] if each == "load_per_call" else backlog))
            print(f"{name} round {number + 1}: {each} {taken[each][-1].wall:.2f} s", flush=True)
    return {**_work(edits), "equal_work": equal, **_figures(name, taken)}


def verify(unet: Any, programs: Mapping[str, Program], edits: Sequence[Edit]) -> dict[str, Any]:
    """That all do the same work, outside of the measured rounds. Raises RuntimeError when they do not."""
    counter, found = RowCounter(), {}
    oracle: Taken | None = None
    for name, program in programs.items():
        with counter.watching(unet):
            taken = program(edits)
        oracle = oracle or taken
        found[name] = {
            "rows": counter.rows,
            "passes": counter.passes.total(),
            **compare(taken.pictures, oracle.pictures),
        }
    if len({one["rows"] for one in found.values()}) != 1:
        raise RuntimeError(f"unequal work: {found}")
    return found


def _work(edits: Sequence[Edit]) -> dict[str, Any]:
    return {
        "jobs": len(edits),
        "model": edits[0].model,
        "side": edits[0].side,
        "combinations_of_parameters": len({edit.parameters for edit in edits}),
        "calls_of_micro": len(groups_alike(edits)),
        "row_steps": sum(edit.effective_steps * edit.rows for edit in edits),
    }


def _figures(name: str, taken: Mapping[str, Sequence[Taken]]) -> dict[str, Any]:
    kinds = ("cpu", "bare_cpu", "wall", "bare_wall")
    per_job = {
        each: {kind: [getattr(one, kind) / one.jobs for one in rounds] for kind in kinds}
        for each, rounds in taken.items()
    }
    beside = {
        f"{each}_vs_{other}": {kind: ratios(per_job[other][kind], per_job[each][kind]) for kind in kinds}
        for each in ("step", "pipeline")
        for other in ("load_per_call", "loop", "micro")
    }
    return {
        "ms_per_job": {
            each: {kind: spread([1000 * one for one in values]) for kind, values in kinds_of.items()}
            for each, kinds_of in per_job.items()
        },
        "ratios": beside,
        "mean_rows_of_step": spread([statistics.mean(one.rows) for one in taken["step"]]),
        "goals": [
            goal(f"step >= {least}x {other}, CPU time", least, beside[f"step_vs_{other}"]["cpu"]["median"])
            for other, least in GOALS[name]
        ],
        "raw_ms_per_job": {
            each: {kind: [round(1000 * one, 3) for one in per_job[each][kind]] for kind in ("cpu", "wall")}
            for each in per_job
        },
    }


def _turned(names: list[str], by: int) -> list[str]:
    start = by % len(names)
    return names[start:] + names[:start]


def main() -> None:
    """Measure and write the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--workloads", nargs="*", choices=WORKLOADS, default=list(WORKLOADS))
    parser.add_argument("--latency", action="store_true", help="measure jobs that arrive one by one too")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        models = {workload(name, 1)[0].model for name in arguments.workloads} | {"sd15"}
        plain = tiny_plain(save_checkpoints(Path(folder), models))
        if arguments.workloads:
            write(
                "engines",
                {
                    "what": "engines and plain diffusers in one process on the same weights, one thread; tiny models",
                    "limits": {"most_images_per_call": MOST_IMAGES, "most_rows_per_pass": MOST_ROWS},
                    "encoding": "PNG, Pillow's default, by all; inline in the plain programs, on a thread for the "
                    "engines; `bare_*` is without it",
                    "load_per_call": f"on the first {LOADING_JOBS} jobs of each round; seconds per job",
                    "workloads": {name: measure(plain, name, arguments.rounds) for name in arguments.workloads},
                },
            )
        if arguments.latency:
            write("latency", latency.measure(plain, arguments.rounds))


if __name__ == "__main__":
    main()
