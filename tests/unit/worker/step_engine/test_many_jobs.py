"""Many unlike jobs with poisoned rows, cancels and parks at random ticks: nobody else is harmed, nothing stays."""

import gc
import random
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import pytest
from greenlet import greenlet

from common.domain.errors import JobFailure
from common.domain.fairness import Lane
from common.domain.params import EditParams
from tests.unit.worker.frames import frames_of, img2img, pictures, run, txt2img
from tests.unit.worker.pipelines.conftest import Shop
from tests.unit.worker.pipelines.still import largest_difference
from worker.engine.pipeline_engine import PipelineEngine
from worker.engine.port import Event, Failed, Finished, Left, Prepared, Stepped
from worker.engine.row_budget import RowBudget
from worker.engine.step_engine import StepEngine
from worker.pipelines import stable_diffusion

torch = pytest.importorskip("torch")

POISON = "poison"
MOST_ROWS = 16
KINDS: tuple[EditParams, ...] = (
    txt2img(prompt="a red circle", num_inference_steps=6, effective_steps=6),
    txt2img(prompt="a green ring", scheduler="pndm", num_inference_steps=5, effective_steps=5, guidance_scale=1.0),
    img2img(prompt="a blue square", strength=0.8, num_inference_steps=9),
    img2img(prompt="two stars", scheduler="unipc", strength=0.5, num_inference_steps=14),
    img2img(prompt="a dot", scheduler="euler_ancestral", strength=0.6, num_inference_steps=8, guidance_scale=1.0),
    img2img(prompt="a line", scheduler="heun", strength=0.5, num_inference_steps=6),
    txt2img(prompt="a small one", width=128, num_inference_steps=4, effective_steps=4),
    img2img(prompt="to the byte", strength=0.5, num_inference_steps=8, deterministic=True),
)


class Poisoner:
    """The UNet, but what it answers to the poison is NaN from the third call on that such a frame is in."""

    def __init__(self, parts: Mapping[str, Any]) -> None:
        self._unet = parts["unet"]
        tokens = parts["tokenizer"](POISON, padding="max_length", max_length=77, truncation=True, return_tensors="pt")
        with torch.no_grad():
            self._text = parts["text_encoder"](tokens.input_ids)[0][0]
        self._calls = 0

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        answer = self._unet(*args, **kwargs)[0].clone()
        bad = (kwargs["encoder_hidden_states"] - self._text).abs().amax(dim=(1, 2)) < 1e-6
        self._calls += bool(bad.any())
        if self._calls % 3 == 0:
            answer[bad] = float("nan")
        return (answer,)

    def close(self) -> None:
        pass


@dataclass
class Crowd:
    """A backlog of jobs, an engine, and what has become of them."""

    engine: StepEngine
    waiting: list[Prepared]
    events: list[Event]
    chance: random.Random
    prompts: dict[str, str]

    def run(self) -> None:
        while self.waiting or self.engine.load().frames:
            for _ in range(4):
                if self.waiting and self.engine.offer(self.waiting[-1]).ok:
                    self.engine.join(self.waiting.pop())
            if self.chance.random() < 0.2:
                self.engine.cancel(f"unwanted-{self.chance.randrange(1000)}")
                self._cancel_one()
            self.engine.tick(self.events.append)

    def _cancel_one(self) -> None:
        here = [event.ref.job_id for event in self.events[-40:] if isinstance(event, Stepped)]
        unwanted = [job_id for job_id in here if job_id.startswith("unwanted")]
        if unwanted:
            self.engine.cancel(self.chance.choice(unwanted))

    def ends(self) -> dict[str, Event]:
        return {event.ref.job_id: event for event in self.events if isinstance(event, Finished | Failed | Left)}


def jobs(count: int, chance: random.Random) -> Iterator[Prepared]:
    """Frames of `count` jobs: of each eight one that will be cancelled and one that is poison; some urgent."""
    for number in range(count):
        fate = {0: "unwanted", 1: POISON}.get(number % 8, "wanted")
        kind = chance.choice(KINDS)
        params = replace(kind, prompt=POISON, deterministic=False) if fate == POISON else kind
        (frame,) = frames_of(params, job_id=f"{fate}-{number}")
        lane = chance.choice([Lane.HIGH, Lane.LOW, Lane.LOW, Lane.NORMAL])
        yield replace(frame, job=replace(frame.job, lane=lane))


def survive(shop: Shop, count: int, seed: int) -> Crowd:
    parts, chance = shop.parts("stable_diffusion"), random.Random(seed)
    fast = {"unet": Poisoner(parts)}
    engine = StepEngine(stable_diffusion, parts, budget=RowBudget(MOST_ROWS), fast=fast)
    frames = list(jobs(count, chance))
    crowd = Crowd(engine, frames, [], chance, {frame.ref.job_id: frame.params.prompt for frame in frames})
    crowd.run()
    return crowd


def check(shop: Shop, crowd: Crowd, count: int) -> None:
    """Everyone ended once and as was their fate, and the survivors' pictures are what they are alone."""
    ended = Counter(event.ref.job_id for event in crowd.events if not isinstance(event, Stepped))
    assert len(ended) == count
    assert set(ended.values()) == {1}
    plain = PipelineEngine(stable_diffusion, shop.parts("stable_diffusion"), max_frames=1)
    expected = {kind.prompt: pictures(run(plain, frames_of(kind)))["job-1", 0] for kind in KINDS}
    differences = []
    for job_id, event in crowd.ends().items():
        fate = job_id.split("-")[0]
        if fate == POISON:
            assert isinstance(event, Failed)
            assert isinstance(event.error, JobFailure)
            assert event.error.code == "invalid_output"
        elif fate == "unwanted":
            assert isinstance(event, Left | Finished)
        else:
            assert isinstance(event, Finished), event
            assert event.pixels is not None
            differences.append(largest_difference(event.pixels, expected[crowd.prompts[job_id]]))
    assert max(differences) <= 1


def tensors() -> int:
    """How many tensors this process holds."""
    gc.collect()
    return sum(issubclass(type(one), torch.Tensor) for one in gc.get_objects())


def coroutines() -> int:
    """How many greenlets are in the middle of something."""
    gc.collect()
    return sum(type(one) is greenlet and bool(one) for one in gc.get_objects())


def test_of_many_jobs_the_poisoned_fail_the_unwanted_leave_and_the_others_are_what_they_are_alone(shop: Shop) -> None:
    crowd = survive(shop, 96, seed=1)
    check(shop, crowd, 96)
    finished = [event.facts for event in crowd.events if isinstance(event, Finished)]
    assert max(facts["peak_rows"] for facts in finished) > 4
    assert any(isinstance(event, Left) for event in crowd.events)


def test_nothing_of_a_crowd_stays_behind(shop: Shop) -> None:
    survive(shop, 24, seed=2).engine.close()
    before, running = tensors(), coroutines()
    survive(shop, 48, seed=3).engine.close()
    assert coroutines() == running
    assert tensors() - before < 20


@pytest.mark.chaos
def test_a_thousand_jobs_leave_nothing_and_harm_nobody(shop: Shop) -> None:
    survive(shop, 24, seed=4).engine.close()
    before, running = tensors(), coroutines()
    crowd = survive(shop, 1000, seed=5)
    check(shop, crowd, 1000)
    crowd.events.clear()
    crowd.engine.close()
    assert coroutines() == running
    assert tensors() - before < 20
