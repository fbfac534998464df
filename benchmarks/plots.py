"""Draws `docs/images/performance-*.svg` from the results that are there: `python -m benchmarks.plots`."""

import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.measuring import read
from benchmarks.svg import Bar, Group, bars_svg

IMAGES = Path(__file__).parents[1] / "docs" / "images"
_SPREAD = "median, least to most"
_NAMES = {
    "load_per_call": "load per call",
    "loop": "diffusers loop",
    "micro": "micro-batches",
    "pipeline": "our pipeline engine",
    "step": "our step engine",
    "service": "Darkroom, whole",
    "celery": "plain Celery",
}
_OURS = {"pipeline", "step", "service"}

Result = Mapping[str, Any]


def engines(result: Result) -> str:
    """Speed of every program relative to the loop, by CPU time."""
    groups = [
        Group(f"{name}: {found['jobs']} jobs at {found['side']} px", _relative(found["raw_ms_per_job"], "cpu", "loop"))
        for name, found in result["workloads"].items()
    ]
    subtitle = f"times as fast as a resident diffusers loop, CPU time, tiny models; {_SPREAD}"
    return bars_svg("Engines on the same weights", subtitle, groups, unit="x", digits=2)


def latency(result: Result) -> str:
    """The 95th percentile of the time to a picture, by load."""
    groups = [
        Group(
            f"load {load}",
            [_bar(name, found[name]["p95_ms"]) for name in ("loop", "step")],
        )
        for load, found in result["loads"].items()
    ]
    subtitle = f"milliseconds from arrival to file, 95 of 100 jobs, tiny models; {_SPREAD}"
    return bars_svg("Jobs that arrive one by one", subtitle, groups, unit=" ms", digits=0)


def service(result: Result) -> str:
    """Speed of the whole service and others relative to plain Celery, by the wall clock."""
    groups = [
        Group(f"{name}: {found['jobs']} jobs", _relative(_by_program(found["raw_seconds"]), "wall", "celery"))
        for name, found in result["workloads"].items()
    ]
    subtitle = f"times as fast as plain Celery with resident pipelines, tiny models; {_SPREAD}"
    return bars_svg("The whole service under a backlog", subtitle, groups, unit="x", digits=2)


def simulated(result: Result) -> str:
    """Speed of each policy relative to the loop, on simulated devices."""
    groups = [
        Group(
            f"{model}, {count} device{'s' if int(count) > 1 else ''}",
            [_bar(policy, figures) for policy, figures in found["backlog_vs_loop"].items()],
        )
        for model, counts in result["models"].items()
        for count, found in counts.items()
    ]
    subtitle = "times as fast as one job at a time; virtual clock, computed times of a pass: no measurement of a device"
    return bars_svg("Scheduling on simulated devices", subtitle, groups, unit="x", digits=2)


DRAWINGS: Mapping[str, Callable[[Result], str]] = {
    "engines": engines,
    "latency": latency,
    "service": service,
    "simulated": simulated,
}


def draw_all(folder: Path = IMAGES) -> list[Path]:
    """Draw what there are results of; the files."""
    drawn = []
    for name, draw in DRAWINGS.items():
        result = read(name)
        if result is None:
            continue
        path = folder / f"performance-{name}.svg"
        path.write_text(draw(result), encoding="utf-8")
        drawn.append(path)
    return drawn


def _relative(raw: Mapping[str, Mapping[str, Sequence[float]]], kind: str, base: str) -> list[Bar]:
    """How many times as fast as `base`, round by round."""
    bars = []
    for name, kinds in raw.items():
        values = [one / other for one, other in zip(raw[base][kind], kinds[kind], strict=True)]
        figures = {"median": statistics.median(values), "min": min(values), "max": max(values)}
        bars.append(_bar(name, figures))
    return bars


def _by_program(raw: Mapping[str, Mapping[str, Sequence[float]]]) -> dict[str, dict[str, Sequence[float]]]:
    programs = next(iter(raw.values()))
    return {name: {kind: raw[kind][name] for kind in raw} for name in programs}


def _bar(name: str, figures: Mapping[str, float]) -> Bar:
    return Bar(_NAMES[name], figures["median"], figures["min"], figures["max"], is_ours=name in _OURS)


def main() -> None:
    """Draw, and say what was drawn."""
    for path in draw_all():
        print(path.name)


if __name__ == "__main__":
    main()
