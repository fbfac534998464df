"""A backlog of jobs with fates: most are wanted, some poisoned, some cancelled, some break every pass they are in."""

import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from common.domain.capabilities import Task
from common.domain.fairness import Lane
from tests.unit.worker.step_engine.cases import Case
from tests.unit.worker.step_engine.running import engine_of
from worker.engine.port import Event, Left, Prepared, Previewed, Stepped
from worker.engine.step_engine import StepEngine
from worker.pipelines.prompts import encode_chunks

Fate = Literal["wanted", "poisoned", "culprit", "unwanted"]

SD = "stable_diffusion"
ROWS = 12
KINDS: Sequence[Case] = (
    Case(SD, Task.TXT2IMG, steps=6),
    Case(SD, Task.TXT2IMG, "pndm", prompt="a green ring", guidance_scale=1.0, steps=5, seed=1),
    Case(SD, Task.IMG2IMG, "unipc", prompt="two stars", strength=0.8, steps=6, seed=2),
    Case(SD, Task.IMG2IMG, "euler_ancestral", prompt="", strength=1.0, guidance_scale=1.0, steps=3, seed=3, blue=9),
    Case(SD, Task.IMG2IMG, "heun", prompt="a line", strength=0.5, steps=6, seed=4, blue=99),
    Case(SD, Task.INPAINT, "dpmpp_2m", prompt="a dot", strength=0.9, steps=5, seed=5),
    Case(SD, Task.INPAINT, "kdpm2_ancestral", prompt="rain", strength=1.0, steps=3, seed=6, blue=200),
    Case(SD, Task.TXT2IMG, "lcm", prompt="wide", steps=2, seed=7, size=128),
)
_LANES = (Lane.HIGH, Lane.NORMAL, Lane.LOW, Lane.LOW, Lane.LOW)


@dataclass(frozen=True, slots=True)
class Plan:
    """What will become of a job: at its evaluation `at` the fate strikes."""

    case: Case
    fate: Fate
    at: int
    is_exact: bool
    lane: Lane

    def frame(self, job_id: str) -> Prepared:
        """Its frame. Who is struck has a prompt of its own, by which its row is known."""
        return self.case.frame(job_id, lane=self.lane, deterministic=self.is_exact)


def plans(count: int, chance: random.Random) -> Mapping[str, Plan]:
    """So many jobs, by their ids."""
    return {f"job-{number}": _plan(number, chance) for number in range(count)}


def _plan(number: int, chance: random.Random) -> Plan:
    fates: Sequence[Fate] = ("wanted", "poisoned", "culprit", "unwanted")
    (fate,) = chance.choices(fates, (70, 12, 4, 14))
    case = chance.choice(KINDS)
    if fate in {"poisoned", "culprit"}:
        case = Case(SD, Task.TXT2IMG, "heun", prompt=f"{fate} {number}", guidance_scale=chance.choice([1.0, 5.0]))
    is_exact = fate == "wanted" and chance.random() < 0.1
    return Plan(case, fate, chance.randint(0, 3), is_exact, chance.choice(_LANES))


class Weather:
    """The UNet of a storm. It makes one row of a poisoned job no number, raises for a culprit, and is out of memory now
    and then.
    """

    def __init__(self, parts: Mapping[str, Any], jobs: Mapping[str, Plan], chance: random.Random) -> None:
        self._unet, self._chance = parts["unet"], chance
        self._texts = {
            job_id: (encode_chunks(parts, [plan.case.prompt], 1)[0], plan)
            for job_id, plan in jobs.items()
            if plan.fate in {"poisoned", "culprit"}
        }
        self._seen: Counter[str] = Counter()
        self.rows: list[int] = []

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        import torch

        prompts = kwargs["encoder_hidden_states"]
        self.rows.append(len(prompts))
        if len(prompts) > 6 and self._chance.random() < 0.01:
            raise torch.OutOfMemoryError("CUDA out of memory")
        struck = [(job_id, row) for job_id, row in self._present(prompts) if self._is_struck(job_id)]
        if any(self._texts[job_id][1].fate == "culprit" for job_id, _ in struck):
            raise ValueError("no such word")
        answer = self._unet(*args, **kwargs)[0].clone()
        for _, row in struck:
            answer[row] = self._chance.choice([float("nan"), float("inf"), -float("inf")])
        return (answer,)

    def close(self) -> None:
        """Nothing to let go of."""

    def forget(self, job_ids: Sequence[str]) -> None:
        """These begin anew."""
        for job_id in job_ids:
            del self._seen[job_id]

    def _is_struck(self, job_id: str) -> bool:
        plan = self._texts[job_id][1]
        self._seen[job_id] += 1
        return self._seen[job_id] > plan.at

    def _present(self, prompts: Any) -> list[tuple[str, int]]:
        """Whose rows these are, of those that are to be struck."""
        return [
            (job_id, row)
            for job_id, (text, _) in self._texts.items()
            for row in range(len(prompts))
            if bool((prompts[row] == text).all())
        ]


@dataclass
class Storm:
    """One engine that is always full, until all jobs have ended."""

    engine: StepEngine
    weather: Weather
    jobs: Mapping[str, Plan]
    chance: random.Random
    ends: dict[str, Event] = field(default_factory=dict)
    parked_frames: int = 0
    parked_engines: int = 0
    _steps: Counter[str] = field(default_factory=Counter)
    _inside: set[str] = field(default_factory=set)

    def run(self, *, parks: float) -> None:
        """Until nobody is left. `parks`: how likely all are parked in a tick, after which they begin anew."""
        waiting = list(self.jobs)
        while waiting or self._inside:
            self._let_in(waiting)
            if self.chance.random() < parks:
                self.engine.park()
            events: list[Event] = []
            self.engine.tick(lambda event, events=events: self._hear(event, events))  # type: ignore[misc]
            left = [event.ref.job_id for event in events if isinstance(event, Left) and event.parked]
            waiting += left
            self.weather.forget(left)
            self._steps.subtract({job_id: self._steps[job_id] for job_id in left})
            stepped = {event.ref.job_id for event in events if isinstance(event, Stepped)}
            self.parked_frames += len(self._inside - stepped)
            self.parked_engines += bool(left)
            assert self.engine.load().frames == len(self._inside)

    def _let_in(self, waiting: list[str]) -> None:
        for job_id in waiting[:6]:
            frame = self.jobs[job_id].frame(job_id)
            if self.engine.offer(frame).ok:
                self.engine.join(frame)
                waiting.remove(job_id)
                self._inside.add(job_id)
                self._cancel_when_due(job_id)

    def _hear(self, event: Event, events: list[Event]) -> None:
        events.append(event)
        job_id = event.ref.job_id
        assert job_id in self._inside, "something was told of a job that is not in"
        if isinstance(event, Stepped):
            self._steps[job_id] += 1
            self._cancel_when_due(job_id)
        elif not isinstance(event, Previewed):
            self._inside.remove(job_id)
            if not (isinstance(event, Left) and event.parked):
                assert job_id not in self.ends, "a job ended twice"
                self.ends[job_id] = event

    def _cancel_when_due(self, job_id: str) -> None:
        plan = self.jobs[job_id]
        if plan.fate == "unwanted" and self._steps[job_id] == min(plan.at, 1):
            self.engine.cancel(job_id)


def storm_over(parts: Mapping[str, Any], count: int, seed: int, *, parks: float = 0.01) -> Storm:
    """What is left after a storm."""
    chance = random.Random(seed)
    jobs = plans(count, chance)
    weather = Weather(parts, jobs, chance)
    storm = Storm(engine_of(SD, parts, rows=ROWS, fast={"unet": weather}), weather, jobs, chance)
    storm.run(parks=parks)
    return storm
