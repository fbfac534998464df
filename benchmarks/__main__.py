"""Everything that this machine can measure, one after the other: `python -m benchmarks`, about a quarter of an hour.

Engines and latency, the whole service and its device thread, simulated devices, then the pictures. Each also runs by
itself, with more rounds where that matters; the GPU has a program of its own (`benchmarks.gpu`).
"""

import argparse
import subprocess
import sys
import time

_PROGRAMS = (
    ("benchmarks.engines", "--latency"),
    ("benchmarks.service", "--busy"),
    ("benchmarks.simulated",),
    ("benchmarks.plots",),
)
_WITHOUT_ROUNDS = {"benchmarks.plots"}


def main() -> None:
    """Run them all; the first that fails ends it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    for module, *options in _PROGRAMS:
        rounds = [] if module in _WITHOUT_ROUNDS else ["--rounds", str(arguments.rounds)]
        began = time.monotonic()
        subprocess.run([sys.executable, "-m", module, *options, *rounds], check=True)
        print(f"{module}: {time.monotonic() - began:.0f} s", flush=True)


if __name__ == "__main__":
    main()
