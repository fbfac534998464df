"""The parts of `benchmarks.gpu`: each measures one thing about one model and returns what it found."""

import statistics
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from benchmarks.gpu_backlog import backlog
from benchmarks.gpu_bench import Bench, Part, PeakMemory, seconds_of
from benchmarks.gpu_models import CEILING_TFLOPS, Subject, unet_arguments
from benchmarks.measuring import ratios, spread
from benchmarks.plain import Plain
from benchmarks.programs import load_per_call, loop, on_engine, pipeline_engine
from benchmarks.workloads import alike, renewed, unlike
from worker.checkpoints.loading import parts_of
from worker.memory import release_memory, weight_bytes

LOADING_JOBS = 3


def ceiling(bench: Bench) -> dict[str, Any]:
    """TFLOP/s of matrix products in the device's number format: the most that any model can reach here."""
    import torch

    found = {}
    for side in (256, 512) if bench.is_tiny else (4096, 8192):
        one, other = (torch.randn(side, side, device=bench.device.torch_device, dtype=bench.device.dtype) for _ in "ab")
        seconds = seconds_of(partial(torch.mm, one, other), bench)
        found[str(side)] = round(2 * side**3 / seconds / 1e12, 3)
    return {"tflops": found, "assumed_for_floors": CEILING_TFLOPS}


def load(name: str, bench: Bench) -> dict[str, Any]:
    """Seconds to load from the disk, to load per call, and of a call of the resident model; bytes of weights."""
    subject = bench.subject(name)
    plain = bench.plain(subject)
    edits = alike(unlike(name, subject.side, LOADING_JOBS + 1, seed=6))
    loop(plain)(edits[:1])
    weights = weight_bytes(parts_of(plain.pipeline(name)).values())
    taken: dict[str, list[float]] = {"load": [], "load_per_call": [], "resident": []}
    for number in range(bench.rounds):
        backlog = renewed(edits, number)[1:]
        taken["resident"].append(loop(plain)(backlog).wall / len(backlog))
        began = time.perf_counter()
        Plain(plain.folder, device=plain.device, dtype=plain.dtype).load(name)
        bench.wait()
        taken["load"].append(time.perf_counter() - began)
        release_memory()
        loading = Plain(plain.folder, device=plain.device, dtype=plain.dtype)
        taken["load_per_call"].append(load_per_call(loading)(backlog).wall / len(backlog))
        loading.forget()
        release_memory()
    return {
        "weights_mb": round(weights / 1e6),
        "seconds": {each: spread(values) for each, values in taken.items()},
        "resident_vs_load_per_call": ratios(taken["load_per_call"], taken["resident"]),
    }


def forward(name: str, bench: Bench) -> dict[str, Any]:
    """Milliseconds of a pass of the UNet by its rows, eager; beside its computed floor, and the peak of memory."""
    import torch

    subject = bench.subject(name)
    unet = bench.plain(subject).pipeline(name).unet
    return {"side": subject.side, "passes": _passes(unet, unet, subject, bench, torch.inference_mode)}


def compiled(name: str, bench: Bench) -> dict[str, Any]:
    """The same compiled as the worker does it, with the seconds that the first call of each number of rows takes."""
    import torch

    from worker.engine.compiling import CompiledDenoiser

    subject = bench.subject(name)
    unet = bench.plain(subject).pipeline(name).unet
    backend = "inductor" if bench.device.kind == "cuda" else "eager"
    fast = CompiledDenoiser(unet, buckets=bench.rows(subject), most_rows=subject.most_rows, backend=backend)
    warm_up = {}
    for rows in bench.rows(subject):
        args, kwargs = unet_arguments(unet, rows, subject.side, bench.device)
        began = time.perf_counter()
        with torch.inference_mode():
            fast(*args, **kwargs)
        fast.settle()
        warm_up[str(rows)] = round(time.perf_counter() - began, 2)
    passes = _passes(fast, unet, subject, bench, torch.inference_mode)
    fast.close()
    states = {str(state): count for state, count in fast.counts().items()}
    return {"backend": backend, "warm_up_seconds": warm_up, "variants": states, "passes": passes}


def _passes(
    run: Callable[..., Any], unet: Any, subject: Subject, bench: Bench, mode: Callable[[], Any]
) -> dict[str, dict[str, float]]:
    found = {}
    for rows in bench.rows(subject):
        args, kwargs = unet_arguments(unet, rows, subject.side, bench.device)
        peak = PeakMemory(bench)
        with mode():
            ms = 1000 * seconds_of(partial(run, *args, **kwargs), bench)
        found[str(rows)] = {
            "ms": round(ms, 3),
            "ms_per_row": round(ms / rows, 3),
            "share_of_floor": round(subject.floor.rows(rows) / ms, 4),
            "peak_mb": peak.read(),
        }
    return found


def batches(name: str, bench: Bench) -> dict[str, Any]:
    """Seconds per job and per step of the pipeline engine on jobs with equal parameters, by how many share a call."""
    subject = bench.subject(name)
    plain = bench.plain(subject)
    run = on_engine(pipeline_engine(plain, name, subject.family), is_picking=True)
    found = {}
    for count in (1, 2, 4, 8):
        edits = alike(unlike(name, subject.side, count, seed=7))
        run(renewed(edits, 99))
        peak = PeakMemory(bench)
        walls = [run(renewed(edits, number)).wall for number in range(bench.rounds)]
        steps = edits[0].effective_steps
        found[str(count)] = {
            "seconds_per_job": spread([wall / count for wall in walls]),
            "seconds_per_step": round(statistics.median(walls) / steps, 5),
            "peak_mb": peak.read(),
        }
    return {"side": subject.side, "images": found}


def parts_for(names: Sequence[str]) -> dict[str, Part]:
    """Every part by its name, in the order in which they are worth running."""
    found: dict[str, Part] = {"ceiling": ceiling}
    for name in names:
        found |= {
            f"forward-{name}": partial(forward, name),
            f"load-{name}": partial(load, name),
            f"unlike-{name}": partial(backlog, name),
            f"alike-{name}": partial(backlog, name, is_alike=True),
            f"batches-{name}": partial(batches, name),
            f"compiled-{name}": partial(compiled, name),
            f"unlike-compiled-{name}": partial(backlog, name, is_compiled=True),
        }
    return found
