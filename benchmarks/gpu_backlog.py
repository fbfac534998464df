"""The parts of `benchmarks.gpu` that run a backlog: resident eager loop, micro-batches and step engine, alternately."""

import time
from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.gpu_bench import Bench
from benchmarks.gpu_models import Subject
from benchmarks.measuring import ratios, spread
from benchmarks.occupied import Occupied
from benchmarks.plain import Plain
from benchmarks.programs import MOST_IMAGES, Program, Taken, loop, micro_batches, on_engine, step_engine
from benchmarks.verifying import RowCounter, compare
from benchmarks.workloads import Edit, alike, renewed, unlike
from worker.checkpoints.loading import parts_of
from worker.engine.measuring import gauge_for
from worker.engine.stand_ins import Run


def backlog(name: str, bench: Bench, *, is_alike: bool = False, is_compiled: bool = False) -> dict[str, Any]:
    """A backlog of img2img jobs: resident eager loop, micro-batches and step engine, alternately."""
    subject = bench.subject(name)
    plain = bench.plain(subject)
    edits = unlike(name, subject.side, subject.jobs, seed=8)
    edits = alike(edits) if is_alike else edits
    watch = Occupied(parts_of(plain.pipeline(name)), is_cuda=bench.device.kind == "cuda")
    compiled, warm_up = _compiled_unet(plain, subject, bench) if is_compiled else (None, None)
    fast = None if compiled is None else {"unet": watch.around(compiled)}
    engine = step_engine(plain, name, subject.family, subject.most_rows, gauge=gauge_for(bench.device), fast=fast)
    programs = {
        "loop": loop(plain),
        "micro": micro_batches(plain, min(MOST_IMAGES, subject.most_rows // 2)),
        "step": on_engine(engine, is_picking=False),
    }
    for program in programs.values():
        program(renewed(edits[: subject.jobs // 2], 0))
    taken: dict[str, list[Taken]] = {each: [] for each in programs}
    for number in range(bench.rounds):
        for each, program in programs.items():
            taken[each].append(program(renewed(edits, number + 1)))
            print(f"{name} round {number + 1}: {each} {taken[each][-1].wall:.2f} s", flush=True)
    return {
        "side": subject.side,
        "jobs": len(edits),
        "most_rows": subject.most_rows,
        "compile_warm_up_seconds": warm_up,
        **_figures(subject, edits, taken),
        "equal_work": _equal_work(plain.pipeline(name).unet, programs, renewed(edits, 98), counts_rows=not is_compiled),
        "occupied": _occupied(watch, programs, renewed(edits, 97)),
    }


def _compiled_unet(plain: Plain, subject: Subject, bench: Bench) -> tuple[Run, float]:
    from worker.engine.compiling import CompiledDenoiser

    unet = plain.pipeline(subject.name).unet
    backend = "inductor" if bench.device.kind == "cuda" else "eager"
    fast = CompiledDenoiser(unet, most_rows=subject.most_rows, backend=backend)
    engine = step_engine(plain, subject.name, subject.family, subject.most_rows, fast={"unet": fast})
    run = on_engine(engine, is_picking=False)
    began = time.perf_counter()
    for number in range(2):  # the first pass through a backlog asks for all that is worth compiling
        run(renewed(unlike(subject.name, subject.side, subject.jobs, seed=8), 900 + number))
        fast.settle()
    return fast, round(time.perf_counter() - began, 1)


def _figures(subject: Subject, edits: Sequence[Edit], taken: Mapping[str, Sequence[Taken]]) -> dict[str, Any]:
    wall = {each: [one.bare_wall for one in rounds] for each, rounds in taken.items()}
    floor = sum(_floor_ms(subject, edit) for edit in edits) / 1000
    return {
        "bare_seconds": {each: spread(values) for each, values in wall.items()},
        "seconds_with_png": {each: spread([one.wall for one in rounds]) for each, rounds in taken.items()},
        "images_per_second": {each: spread([len(edits) / one for one in values]) for each, values in wall.items()},
        "floor_seconds": round(floor, 4),
        "share_of_floor": {each: spread([floor / one for one in values]) for each, values in wall.items()},
        "step_vs": {other: ratios(wall[other], wall["step"]) for other in ("loop", "micro")},
        "raw_bare_seconds": wall,
    }


def _floor_ms(subject: Subject, edit: Edit) -> float:
    return subject.floor.encode + edit.effective_steps * subject.floor.rows(edit.rows) + subject.floor.decode


def _equal_work(
    unet: Any, programs: Mapping[str, Program], edits: Sequence[Edit], *, counts_rows: bool
) -> dict[str, Any]:
    """Rows of all passes, and how far the pictures are from the loop's; told and not judged, in half precision."""
    counter, found = RowCounter(), {}
    oracle: Taken | None = None
    for each, program in programs.items():
        with counter.watching(unet):
            taken = program(edits)
        oracle = oracle or taken
        rows = {"rows": counter.rows} if counts_rows else {}
        found[each] = {**rows, **compare(taken.pictures, oracle.pictures, least_db=0.0)}
    return found


def _occupied(watch: Occupied, programs: Mapping[str, Program], edits: Sequence[Edit]) -> dict[str, float]:
    """The share of the time without encoding in which the device is occupied, by program."""
    found = {}
    for each, program in programs.items():
        with watch.watching():
            taken = program(edits)
        found[each] = round(watch.seconds() / taken.bare_wall, 4)
    return found
