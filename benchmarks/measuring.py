"""What every benchmark needs: percentiles, the machine in words, and JSON that can be committed."""

import json
import os
import platform
import statistics
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"


def percentile(values: Sequence[float], share: float) -> float:
    """The value below which `share` (0-1) of the values lie, by nearest rank."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def summary(milliseconds: Sequence[float]) -> dict[str, float]:
    """Median, 99th percentile, least and most."""
    return {
        "p50": round(statistics.median(milliseconds), 2),
        "p99": round(percentile(milliseconds, 0.99), 2),
        "min": round(min(milliseconds), 2),
        "max": round(max(milliseconds), 2),
        "n": len(milliseconds),
    }


def spread(values: Sequence[float]) -> dict[str, float]:
    """Median, least and most of a figure over rounds, and how many rounds there were."""
    return {
        "median": round(statistics.median(values), 4),
        "min": round(min(values), 4),
        "max": round(max(values), 4),
        "n": len(values),
    }


def ratios(slower: Sequence[float], faster: Sequence[float]) -> dict[str, float]:
    """How many times as long the first program took as the second, round by round: each round gives one ratio."""
    return spread([one / other for one, other in zip(slower, faster, strict=True)])


def goal(what: str, least: float, measured: float) -> dict[str, Any]:
    """A goal beside what was measured."""
    return {"goal": what, "least": least, "measured": round(measured, 3), "is_met": measured >= least}


def read(name: str, folder: Path = RESULTS) -> dict[str, Any] | None:
    """A result that was written before, or None."""
    path = folder / f"{name}.json"
    found: dict[str, Any] | None = json.loads(path.read_text()) if path.is_file() else None
    return found


def write(name: str, result: dict[str, Any], *, folder: Path = RESULTS) -> Path:
    """Write `<name>.json` into the folder, with the date and the machine beside the figures.

    `load_average` tells of company: above the number of busy threads of the benchmark, others were computing too.
    """
    machine = {
        "python": platform.python_version(),
        "cores": os.cpu_count(),
        "system": platform.system(),
        "processor": platform.machine(),
        "load_average": [round(one, 2) for one in os.getloadavg()],
    }
    path = folder / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    document = {"measured_at": datetime.now(UTC).isoformat(timespec="seconds"), "machine": machine, **result}
    path.write_text(json.dumps(document, indent=2) + "\n")
    print(json.dumps(document, indent=2))
    return path
