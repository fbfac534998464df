"""Models of the real sizes on a CUDA device, in parts: `python -m benchmarks.gpu [--list] [--part NAME …]`.

Stable Diffusion 1.5 at 512 pixels and SDXL at 1024, with the configurations of the real checkpoints and random weights.
Each part is meant to take less than ten minutes, writes a JSON file of its own and is skipped when that is there, so
that a run can be broken off and taken up again. It needs disk space for both models (10 GB) and exits with 2 without a
device; `--device cpu --tiny` runs every part on tiny models, which proves the program and measures nothing.
"""

import argparse
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from benchmarks.gpu_bench import Bench, Part
from benchmarks.gpu_models import SUBJECTS
from benchmarks.gpu_parts import parts_for
from benchmarks.measuring import RESULTS, read, write
from worker.device import Device, pick_device, use_threads
from worker.memory import release_memory
from worker.quiet import quiet_libraries

NO_DEVICE = 2


def run_parts(bench: Bench, parts: dict[str, Part], results: Path) -> list[str]:
    """Run those of the parts that have no result yet; the names of those that ran."""
    done = []
    for name, part in parts.items():
        if read(name, results) is not None:
            print(f"{name}: there already")
            continue
        write(name, {"part": name, "device": _described(bench.device), **part(bench)}, folder=results)
        release_memory()
        done.append(name)
    return done


def _described(device: Device) -> dict[str, str]:
    import torch

    return {"name": device.name, "dtype": str(device.dtype), "torch": str(torch.__version__)}


def _parse(arguments: Sequence[str] | None) -> Any:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--list", action="store_true", help="name the parts")
    parser.add_argument("--part", nargs="+", metavar="NAME", help="these parts only")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--tiny", action="store_true", help="tiny models; the figures mean nothing")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--checkpoints", type=Path, help="folder that keeps the random checkpoints between runs")
    parser.add_argument("--results", type=Path, help="folder of the JSON files")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure what is missing and write it; the exit status."""
    asked = _parse(arguments)
    parts = parts_for(tuple(SUBJECTS))
    if asked.list:
        print("\n".join(parts))
        return 0
    import torch

    if asked.device == "cuda" and not torch.cuda.is_available():
        print("benchmarks.gpu measures on a CUDA device, and torch sees none here: nothing measured", file=sys.stderr)
        return NO_DEVICE
    quiet_libraries()
    if asked.device == "cpu":
        use_threads(1)
    chosen = {name: parts[name] for name in asked.part or parts}
    with ExitStack() as opened:
        spare = Path(opened.enter_context(tempfile.TemporaryDirectory()))
        results = asked.results or (spare / "results" if asked.tiny else RESULTS / "gpu")
        bench = Bench(pick_device(asked.device), asked.checkpoints or spare / "models", asked.rounds, asked.tiny)
        run_parts(bench, chosen, results)
    return 0


if __name__ == "__main__":
    sys.exit(main())
