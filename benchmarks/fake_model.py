"""A model that computes nothing and takes its time on a virtual clock, under the product's own step engine."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType, SimpleNamespace
from typing import Any

import torch

from common.domain.catalogue import Task
from worker.engine.measuring import Answer, Note
from worker.engine.row_budget import RowBudget
from worker.engine.step_engine import StepEngine
from worker.pipelines.family import Frame, LatentRgb, Parts


@dataclass
class DeviceClock:
    """The time on one simulated device, in seconds."""

    now: float = 0.0


@dataclass(frozen=True, slots=True)
class StepTimes:
    """Seconds of a pass: `base` + `per_row` x rows; and of one picture through the VAE."""

    base: float
    per_row: float
    encode: float
    decode: float

    def seconds(self, rows: int) -> float:
        """Of a pass of so many rows."""
        return self.base + self.per_row * rows


class FakeUnet(torch.nn.Module):
    """Answers what it is given."""

    def __init__(self, times: StepTimes, clock: DeviceClock) -> None:
        super().__init__()
        self.times, self.clock = times, clock
        self.device = torch.device("cpu")

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        """The rows again, after the time that they take."""
        self.clock.now += self.times.seconds(len(rows))
        return rows


class FakePipeline:
    """A denoising loop without pictures: as many passes as steps run, with the frame's rows."""

    def __init__(self, unet: Callable[[torch.Tensor], torch.Tensor]) -> None:
        self.unet = unet
        self.scheduler = SimpleNamespace(config={}, set_timesteps=_no_timesteps)
        self.num_timesteps = 0

    def __call__(
        self, *, rows: int, steps: int, output_type: str, callback_on_step_end: Callable[..., dict[str, Any]]
    ) -> Any:
        """An object whose `images` are latents, as of diffusers with `output_type` "latent"."""
        self.num_timesteps = steps
        latents = torch.ones(1, 4, 1, 1)
        for step in range(steps):
            self.unet(latents.expand(rows, -1, -1, -1))
            callback_on_step_end(self, step, None, {"latents": latents})
        return SimpleNamespace(images=latents)


class FakeFamily:
    """Satisfies `worker.pipelines.family.Family` with pictures of one pixel that take the time of real ones."""

    NAME = "fake"
    LATENT_RGB: LatentRgb = None
    LOADING: Mapping[str, Any] = MappingProxyType({})

    def __init__(self, times: StepTimes, clock: DeviceClock) -> None:
        self.times, self.clock = times, clock

    def loader(self) -> Any:
        """None: nothing is loaded."""

    def pipeline(self, parts: Parts, task: Task, scheduler: str | None) -> Any:
        """A new loop."""
        return FakePipeline(parts["unet"])

    def shape_key(self, parts: Parts, frame: Frame) -> str:
        """Nothing more."""
        return ""

    def warnings(self, parts: Parts, frame: Frame) -> list[dict[str, str]]:
        """None."""
        return []

    def arguments(self, parts: Parts, frames: Sequence[Frame]) -> dict[str, Any]:
        """Of one frame; its picture is encoded here."""
        (frame,) = frames
        self.clock.now += self.times.encode
        return {"rows": 2 if frame.params.guidance_scale > 1 else 1, "steps": frame.params.effective_steps}

    def autoencoder(self, parts: Parts) -> Any:
        """None: decoding never fails here."""

    def decode(self, parts: Parts, latents: torch.Tensor) -> torch.Tensor:
        """Grey pictures, after the time that they take."""
        self.clock.now += self.times.decode * len(latents)
        return torch.zeros(len(latents), 3, 1, 1)


class ClockGauge:
    """Implements `worker.engine.measuring.Gauge` on the virtual clock, so that the row budget learns from it."""

    def __init__(self, clock: DeviceClock) -> None:
        self._clock = clock

    def run(self, work: Callable[[], Answer], note: Note, *, weigh: bool = False) -> Answer:
        """Do `work` and note what it took on the clock."""
        began = self._clock.now
        answer = work()
        note(self._clock.now - began, None)
        return answer


def fake_step_engine(times: StepTimes, clock: DeviceClock, most_rows: int) -> StepEngine:
    """The product's step engine over such a model."""
    family, parts = FakeFamily(times, clock), {"unet": FakeUnet(times, clock)}
    return StepEngine(family, parts, budget=RowBudget(most_rows), gauge=ClockGauge(clock))


def _no_timesteps(*_: Any, **__: Any) -> None:
    """There is no schedule."""
