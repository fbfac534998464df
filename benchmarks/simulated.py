"""Scheduling with 1 to 8 devices on a simulated device: `python -m benchmarks.simulated`. No hardware, no sleeping.

The product's own step engine (seats, row budget, coroutines, departures) runs over a model that computes nothing and
takes a + b x rows on a virtual clock; a picture that comes or goes takes the VAE's time. One queue feeds all devices.
Beside it, on the same clock: one job at a time, and calls of up to 16 jobs with equal parameters.

The times are no measurement. They come from the configurations of the models, counted operations and published rates:

- SD 1.5 at 512 px: a = 5.5 ms (728 operations at 5-10 us each), b = 1.45 ms per row (roofline of eager execution,
  2.9 ms per pass of two rows); VAE 2.3 ms to encode and 4.6 ms to decode. A pass of two rows takes 8.4 ms.
- SDXL at 1024 px: b = 11.15 ms per row (22.3 ms per pass of two rows), a = 5.2 ms, which makes 16 rows 1.2 times as
  fast per row as two: the middle of what its arithmetic allows (1.05-1.35); VAE 9.5 and 18.9 ms.
"""

import argparse
import random
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Any

from benchmarks.fake_model import DeviceClock, StepTimes, fake_step_engine
from benchmarks.measuring import percentile, spread, write
from benchmarks.programs import MOST_IMAGES
from benchmarks.workloads import Edit, unlike
from common.domain.catalogue import Task
from common.domain.params import EditParams
from tests.unit.worker.frames import frames_of
from worker.engine.port import Engine, Event, Failed, Finished, Prepared

MODELS: Mapping[str, tuple[int, StepTimes]] = {
    "sd15-512": (512, StepTimes(0.0055, 0.00145, encode=0.0023, decode=0.0046)),
    "sdxl-1024": (1024, StepTimes(0.0052, 0.01115, encode=0.0095, decode=0.0189)),
}
DEVICES = (1, 2, 4, 8)
LOADS = (0.5, 0.9, 1.5)
JOBS_PER_DEVICE = 96
MOST_ROWS = {"sd15-512": 32, "sdxl-1024": 8}
POLICIES = ("loop", "micro", "step")
ROUNDS = 5


@dataclass(frozen=True, slots=True)
class Job:
    """One job and when it arrives; `number` is its place among all."""

    number: int
    edit: Edit
    arrives_at: float
    frame: Prepared


class Device:
    """One device with a clock of its own: it takes jobs from the common queue and says when which are done."""

    def __init__(self, policy: str, times: StepTimes, most_rows: int) -> None:
        self.clock = DeviceClock()
        self._policy = policy
        self._times = times
        self._most_images = max(1, min(MOST_IMAGES, most_rows // 2))
        self._engine: Engine | None = fake_step_engine(times, self.clock, most_rows) if policy == "step" else None

    @property
    def is_busy(self) -> bool:
        """Whether jobs are in it."""
        return self._engine is not None and self._engine.load().frames > 0

    def work(self, waiting: deque[Job], done: dict[int, float]) -> None:
        """Take what has arrived and do one unit of work."""
        if self._engine is not None:
            self._tick(self._engine, waiting, done)
        else:
            self._call(waiting, done)

    def _tick(self, engine: Engine, waiting: deque[Job], done: dict[int, float]) -> None:
        while waiting and waiting[0].arrives_at <= self.clock.now:
            if not engine.offer(waiting[0].frame).ok:
                break
            engine.join(waiting.popleft().frame)

        def emit(event: Event) -> None:
            if isinstance(event, Failed):
                raise event.error
            if isinstance(event, Finished):
                done[int(event.ref.job_id)] = self.clock.now

        engine.tick(emit)

    def _call(self, waiting: deque[Job], done: dict[int, float]) -> None:
        first = waiting[0]
        most = self._most_images if self._policy == "micro" else 1
        arrived = (job for job in waiting if job.arrives_at <= self.clock.now)
        alike = [job for job in arrived if job.edit.parameters == first.edit.parameters][:most]
        for job in alike:
            waiting.remove(job)
        rows = sum(job.edit.rows for job in alike)
        passes = first.edit.effective_steps * self._times.seconds(rows)
        self.clock.now += passes + len(alike) * (self._times.encode + self._times.decode)
        done.update(dict.fromkeys((job.number for job in alike), self.clock.now))


def simulate(policy: str, devices: int, jobs: Sequence[Job], times: StepTimes, most_rows: int) -> dict[int, float]:
    """When each job is done. The device that is free first takes from the queue; jobs are served as they came."""
    fleet = [Device(policy, times, most_rows) for _ in range(devices)]
    waiting, done = deque(jobs), dict[int, float]()
    while len(done) < len(jobs):
        free_at = [
            device.clock.now
            if device.is_busy
            else max(device.clock.now, waiting[0].arrives_at if waiting else float("inf"))
            for device in fleet
        ]
        device = fleet[free_at.index(min(free_at))]
        device.clock.now = min(free_at)
        device.work(waiting, done)
    return done


def measure(model: str, devices: int, rounds: int) -> dict[str, Any]:
    """Jobs per second of a backlog, and latencies by load, of every policy."""
    times, most_rows = MODELS[model][1], MOST_ROWS[model]
    backlog: dict[str, list[float]] = {policy: [] for policy in POLICIES}
    for seed in range(rounds):
        jobs = _jobs(model, [0.0] * devices * JOBS_PER_DEVICE, seed)
        for policy in POLICIES:
            done = simulate(policy, devices, jobs, times, most_rows)
            backlog[policy].append(len(jobs) / max(done.values()))
    capacity = sum(backlog["loop"]) / rounds
    return {
        "backlog_jobs_per_second": {policy: spread(values) for policy, values in backlog.items()},
        "backlog_vs_loop": {
            policy: spread([one / other for one, other in zip(values, backlog["loop"], strict=True)])
            for policy, values in backlog.items()
        },
        "latency_ms_by_load": {str(load): _latencies(model, devices, load * capacity, rounds) for load in LOADS},
    }


def _latencies(model: str, devices: int, rate: float, rounds: int) -> dict[str, Any]:
    figures: dict[str, dict[str, list[float]]] = {policy: {"mean": [], "p95": []} for policy in POLICIES}
    for seed in range(rounds):
        chance = random.Random(seed)
        moments = list(accumulate(chance.expovariate(rate) for _ in range(devices * JOBS_PER_DEVICE)))
        jobs = _jobs(model, moments, seed)
        for policy in POLICIES:
            done = simulate(policy, devices, jobs, MODELS[model][1], MOST_ROWS[model])
            waits = [1000 * (done[job.number] - job.arrives_at) for job in jobs]
            figures[policy]["mean"].append(sum(waits) / len(waits))
            figures[policy]["p95"].append(percentile(waits, 0.95))
    return {policy: {kind: spread(values) for kind, values in kinds.items()} for policy, kinds in figures.items()}


def _jobs(model: str, moments: Sequence[float], seed: int) -> list[Job]:
    """Unlike jobs that arrive at these moments. Their frames need no picture: nothing looks at it."""
    edits = unlike(model, MODELS[model][0], len(moments), seed=seed)
    return [
        Job(number, edit, moment, frames_of(_without_picture(edit), job_id=str(number))[0])
        for number, (edit, moment) in enumerate(zip(edits, moments, strict=True))
    ]


def _without_picture(edit: Edit) -> EditParams:
    return replace(edit.params(), task=Task.TXT2IMG, strength=None)


def main() -> None:
    """Simulate and write the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--devices", nargs="+", type=int, default=list(DEVICES))
    arguments = parser.parse_args()
    write(
        "simulated",
        {
            "what": "simulated device: scheduling only, no measurement of a device",
            "times": {
                model: {
                    "a_ms": 1000 * times.base,
                    "b_ms_per_row": 1000 * times.per_row,
                    "encode_ms": 1000 * times.encode,
                    "decode_ms": 1000 * times.decode,
                    "most_rows": MOST_ROWS[model],
                }
                for model, (_, times) in MODELS.items()
            },
            "jobs": "strengths .3 .5 .8, steps 20 30 50, guidance 1 5 7.5 at random; "
            f"{JOBS_PER_DEVICE} per device, all queued, or Poisson arrivals",
            "models": {
                model: {str(count): measure(model, count, arguments.rounds) for count in arguments.devices}
                for model in MODELS
            },
        },
    )


if __name__ == "__main__":
    main()
