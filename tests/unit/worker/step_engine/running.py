"""Running frames on a step engine, and reading what it reported."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from math import inf, log10
from typing import TYPE_CHECKING, Any

from PIL import Image, ImageChops

from worker.engine.port import Event, Failed, Finished, Prepared
from worker.engine.row_budget import RowBudget
from worker.engine.step_engine import StepEngine
from worker.failures import classify
from worker.pipelines.registry import pipeline_for

if TYPE_CHECKING:
    import torch

MANY_ROWS = 64


class NoClock:
    """A gauge that measures nothing, so that who joins does not hang on how fast this machine is."""

    def run(self, work: Callable[[], Any], _note: Any, **_how: Any) -> Any:
        """Do `work`."""
        return work()


def engine_of(family: str, parts: Mapping[str, Any], *, rows: int = MANY_ROWS, **how: Any) -> StepEngine:
    """A step engine on loaded parts."""
    members: dict[str, Any] = {"budget": RowBudget(rows), "gauge": NoClock()} | how
    return StepEngine(pipeline_for(family), parts, **members)


def play(engine: StepEngine, frames: Iterable[Prepared], *, at_once: int = MANY_ROWS) -> list[Event]:
    """What is reported when each frame joins as soon as the engine has fewer than `at_once` and takes it."""
    events: list[Event] = []
    waiting = deque(frames)
    while waiting or engine.load().frames:
        while waiting and engine.load().frames < at_once and engine.offer(waiting[0]).ok:
            engine.join(waiting.popleft())
        engine.tick(events.append)
    return events


def to_the_end(engine: StepEngine) -> list[Event]:
    """What is reported until nobody is in the engine."""
    return play(engine, ())


def tick(engine: StepEngine) -> list[Event]:
    """What one tick reports."""
    events: list[Event] = []
    engine.tick(events.append)
    return events


def finished(events: Iterable[Event]) -> dict[str, Finished]:
    """The ends of jobs of one image, by job; fails when something ended twice."""
    found = [event for event in events if isinstance(event, Finished)]
    ends = {event.ref.job_id: event for event in found}
    assert len(ends) == len(found)
    return ends


def failures(events: Iterable[Event]) -> dict[str, str]:
    """The code of each failed job."""
    return {event.ref.job_id: classify(event.error).code for event in events if isinstance(event, Failed)}


def only(events: Iterable[Event]) -> Finished:
    """The end of the only job."""
    (one,) = finished(events).values()
    return one


def latents_of(one: Finished) -> "torch.Tensor":
    """What a frame of `Case.frame` leaves."""
    assert one.latents is not None
    return one.latents


def picture_of(one: Finished) -> Image.Image:
    """The picture of a frame."""
    assert one.pixels is not None
    return one.pixels


def distance(one: "torch.Tensor", other: "torch.Tensor") -> float:
    """The largest difference of any value, measured in the spread of the other where that is above 1.

    Latents of real models have a spread of about 1, those of random weights one of up to 15, and rounding goes with it.
    """
    return float((one.float() - other.float()).abs().max() / other.float().std().clamp(min=1))


def decibels(one: Image.Image, other: Image.Image) -> float:
    """The peak signal-to-noise ratio of two RGB pictures."""
    counts: Sequence[int] = ImageChops.difference(one, other).histogram()
    error = sum(count * (level % 256) ** 2 for level, count in enumerate(counts)) / sum(counts)
    return inf if error == 0 else 10 * log10(255**2 / error)


def latent_decibels(one: "torch.Tensor", other: "torch.Tensor") -> float:
    """The same of latents, whose peak is the range of the other's values."""
    error = float((one.float() - other.float()).square().mean())
    return inf if error == 0 else 10 * log10(float(other.float().max() - other.float().min()) ** 2 / error)


@contextmanager
def rows_of_passes(model: Any) -> Iterator[list[int]]:
    """The rows of each forward pass of a model within, as they happen."""
    seen: list[int] = []

    def note(_module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        seen.append(len(args[0] if args else kwargs["sample"]))

    hook = model.register_forward_pre_hook(note, with_kwargs=True)
    try:
        yield seen
    finally:
        hook.remove()
