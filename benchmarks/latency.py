"""How long jobs take that arrive one by one: Poisson arrivals, the loop against the step engine.

The clock is virtual: it runs with the CPU time of this process and jumps to the next arrival when there is nothing to
do, so that company on the machine hardly counts. Load is relative to what the loop can do, measured in each round.
Pictures are encoded inline by both.
"""

import random
import time
from collections import deque
from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import Any

from benchmarks.checkpoints import FAMILIES
from benchmarks.measuring import goal, percentile, spread
from benchmarks.plain import Plain, as_png
from benchmarks.programs import loop, pipeline_engine, prepared, step_engine
from benchmarks.workloads import Edit, alike, renewed, unlike
from worker.engine.port import Engine, Event, Failed, Finished, FrameRef, Stepped

JOBS = 48
LOADS = (0.5, 0.9, 1.5)
MOST_ROWS = 16
P95_GOAL = 0.6

Latencies = list[float]
_Figures = dict[str, dict[str, list[float]]]
_Program = Callable[[Sequence[Edit], Sequence[float]], Latencies]


class VirtualClock:
    """Seconds of CPU time since it was made, and of waiting that is skipped."""

    def __init__(self) -> None:
        self._skipped = -time.process_time()

    def now(self) -> float:
        """Now."""
        return time.process_time() + self._skipped

    def wait_until(self, moment: float) -> None:
        """Skip to a moment, if it is still to come."""
        self._skipped += max(0.0, moment - self.now())


def measure(plain: Plain, rounds: int, *, jobs: int = JOBS, loads: Sequence[float] = LOADS) -> dict[str, Any]:
    """Mean and 95th percentile of the time from arrival to file, by load, and the wait of a newcomer in ticks."""
    model = "sd15"
    engine = step_engine(plain, model, FAMILIES[model], MOST_ROWS)
    edits = unlike(model, 64, jobs, seed=4)
    programs: dict[str, _Program] = {
        "loop": lambda jobs, arrivals: _loop(plain, jobs, arrivals),
        "step": lambda jobs, arrivals: _engine(engine, jobs, arrivals),
    }
    for program in programs.values():
        program(renewed(edits, 0), [0.0] * len(edits))
    capacities: list[float] = []
    found: dict[str, _Figures] = {str(load): {name: {"mean": [], "p95": []} for name in programs} for load in loads}
    for number in range(rounds):
        capacities.append(len(edits) / loop(plain)(renewed(edits, 500 + number)).cpu)
        for load in loads:
            _one_round(programs, found[str(load)], renewed(edits, 1 + number), load * capacities[-1], number)
    at_load = {load: _summary(figures) for load, figures in found.items()}
    return {
        "what": "time from arrival to file under Poisson arrivals, virtual clock of CPU time; tiny Stable Diffusion",
        "jobs": jobs,
        "most_rows": MOST_ROWS,
        "loop_jobs_per_second": spread(capacities),
        "loads": at_load,
        "goals": [
            goal(
                f"loop's p95 / step's p95 at load 0.9, at least {1 / P95_GOAL:.2f}", 1 / P95_GOAL, _gain(at_load["0.9"])
            )
        ],
        "newcomer": newcomer(plain),
    }


def _gain(at_load: dict[str, Any]) -> float:
    return 1 / float(at_load["step_over_loop"]["p95"]["median"])


def _one_round(
    programs: dict[str, _Program], figures: _Figures, edits: Sequence[Edit], rate: float, number: int
) -> None:
    chance = random.Random(100 + number)
    arrivals = list(accumulate(chance.expovariate(rate) for _ in edits))
    for name, program in programs.items():
        seconds = program(edits, arrivals)
        figures[name]["mean"].append(1000 * sum(seconds) / len(seconds))
        figures[name]["p95"].append(1000 * percentile(seconds, 0.95))
    print(f"at {rate:.1f} jobs/s:", {name: round(kinds["p95"][-1]) for name, kinds in figures.items()}, flush=True)


def _summary(figures: _Figures) -> dict[str, Any]:
    return {
        **{name: {f"{kind}_ms": spread(values) for kind, values in kinds.items()} for name, kinds in figures.items()},
        "step_over_loop": {
            kind: spread([one / other for one, other in zip(figures["step"][kind], figures["loop"][kind], strict=True)])
            for kind in ("mean", "p95")
        },
    }


def _loop(plain: Plain, edits: Sequence[Edit], arrivals: Sequence[float]) -> Latencies:
    clock, seconds = VirtualClock(), []
    for edit, arrival in zip(edits, arrivals, strict=True):
        clock.wait_until(arrival)
        as_png(plain.draw([edit])[0])
        seconds.append(clock.now() - arrival)
    return seconds


def _engine(engine: Engine, edits: Sequence[Edit], arrivals: Sequence[float]) -> Latencies:
    waiting = deque(zip(prepared(edits), arrivals, strict=True))
    seconds: Latencies = []
    clock = VirtualClock()

    def emit(event: Event) -> None:
        if isinstance(event, Failed):
            raise event.error
        if isinstance(event, Finished) and event.pixels is not None:
            as_png(event.pixels)
            seconds.append(clock.now() - arrivals[int(event.ref.job_id)])

    while waiting or engine.load().frames:
        if not engine.load().frames:
            clock.wait_until(waiting[0][1])
        while waiting and waiting[0][1] <= clock.now() and engine.offer(waiting[0][0]).ok:
            engine.join(waiting.popleft()[0])
        engine.tick(emit)
    return seconds


def newcomer(plain: Plain) -> dict[str, Any]:
    """Ticks from the join of a prepared job to its first step while seven others run; and without late joins."""
    model = "sd15"
    edits = alike(unlike(model, 64, 8, seed=5))
    step = _ticks_to_first_step(step_engine(plain, model, FAMILIES[model], MOST_ROWS), edits, ticks_before=5)
    calls = _ticks_to_first_step(pipeline_engine(plain, model, FAMILIES[model]), edits, ticks_before=0)
    return {
        "running": len(edits) - 1,
        "step_engine_ticks": step,
        "pipeline_engine_steps": (calls - 1) * edits[0].effective_steps + 1,
    }


def _ticks_to_first_step(engine: Engine, edits: Sequence[Edit], *, ticks_before: int) -> int:
    """One tick of the pipeline engine is a whole call, which a newcomer has to let pass."""
    *others, last = prepared(edits)
    stepped: set[FrameRef] = set()

    def emit(event: Event) -> None:
        if isinstance(event, Stepped):
            stepped.add(event.ref)

    for frame in others:
        engine.join(frame)
    for _ in range(ticks_before):
        engine.tick(emit)
    ticks = 0
    if not ticks_before:  # a call is under way: it ends before anybody joins
        engine.tick(emit)
        ticks = 1
    engine.join(last)
    while last.ref not in stepped:
        engine.tick(emit)
        ticks += 1
    while engine.load().frames:
        engine.tick(emit)
    return ticks
