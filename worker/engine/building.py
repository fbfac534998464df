"""From a card to a loaded engine: what `Residency` builds with."""

from dataclasses import dataclass

from common.domain.catalogue import ModelCard
from worker.checkpoints.loading import load_components
from worker.checkpoints.places import Shelf
from worker.device import Device
from worker.engine.pipeline_engine import PipelineEngine
from worker.engine.port import Engine
from worker.engine.stub_engine import NAME as STUB
from worker.engine.stub_engine import StubEngine
from worker.pipelines.registry import family_of


@dataclass(frozen=True, slots=True)
class EngineBuilder:
    """Loads engines for one device; call it with a card.

    `device` is None in a worker that serves stub models only, which then never loads torch.
    """

    device: Device | None
    shelf: Shelf
    max_frames: int
    stub_step_seconds: float = 0.0

    def __call__(self, card: ModelCard) -> Engine:
        """The engine of this model; raises `JobFailure` (`model_unavailable`)."""
        if card.family == STUB:
            return StubEngine(step_seconds=self.stub_step_seconds, max_frames=self.max_frames)
        if self.device is None:
            raise ValueError(f"model {card.id} needs a device")
        parts = load_components(card, self.device, self.shelf)
        return PipelineEngine(family_of(card), parts, max_frames=self.max_frames)
