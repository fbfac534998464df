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


def write(name: str, result: dict[str, Any]) -> Path:
    """Write `results/<name>.json` with the date and the machine beside the figures."""
    machine = {
        "python": platform.python_version(),
        "cores": os.cpu_count(),
        "system": platform.system(),
        "processor": platform.machine(),
    }
    path = RESULTS / f"{name}.json"
    path.parent.mkdir(exist_ok=True)
    document = {"measured_at": datetime.now(UTC).isoformat(timespec="seconds"), "machine": machine, **result}
    path.write_text(json.dumps(document, indent=2) + "\n")
    print(json.dumps(document, indent=2))
    return path
