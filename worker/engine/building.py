"""From a card to a loaded engine: what `Residency` builds with."""

from dataclasses import dataclass
from pathlib import Path

from common.domain.capabilities import Task
from common.domain.catalogue import AdapterCard, Catalogue, ModelCard
from common.domain.params import PassParams
from worker.checkpoints.adapters import find_adapter
from worker.checkpoints.fingerprints import vae_fingerprint
from worker.checkpoints.loading import load_components
from worker.checkpoints.places import Shelf
from worker.device import Device
from worker.engine.adapters import AdapterRack
from worker.engine.pipeline_engine import PipelineEngine
from worker.engine.port import Engine
from worker.engine.stub_engine import NAME as STUB
from worker.engine.stub_engine import StubEngine
from worker.memory import room_for_models
from worker.pipelines.registry import family_of


@dataclass(frozen=True, slots=True)
class EngineBuilder:
    """Loads engines for one device; call it with a card.

    `device` is None in a worker that serves stub models only, which then never loads torch.
    """

    device: Device | None
    shelf: Shelf
    catalogue: Catalogue
    max_frames: int
    stub_step_seconds: float = 0.0

    def __call__(self, card: ModelCard) -> Engine:
        """The engine of this model; raises `JobFailure` (`model_unavailable`)."""
        if card.family == STUB:
            return StubEngine(step_seconds=self.stub_step_seconds, max_frames=self.max_frames)
        if self.device is None:
            raise ValueError(f"model {card.id} needs a device")
        parts = load_components(card, self.device, self.shelf)
        adapters = AdapterRack(dict(card.adapters), self._find_adapter)
        return PipelineEngine(family_of(card), parts, max_frames=self.max_frames, adapters=adapters)

    def may_hand_latents(self, before: PassParams, after: PassParams) -> bool:
        """Whether the models of two passes share a VAE and the second can start from latents. Any thread.

        Raises `JobFailure` (`model_unavailable`) when a checkpoint is not there.
        """
        cards = [self.catalogue.get(one.model) for one in (before, after)]
        if self.device is None or None in cards:
            return False
        first, second = (card for card in cards if card is not None)
        if after.task not in second.capability.takes_latents or after.task is not Task.IMG2IMG:
            return False
        return first.id == second.id or self._vae(first) == self._vae(second)

    def budget_bytes(self, wished: int) -> int:
        """What loaded models may take together: as wished, or by what the device has free now."""
        return wished or (0 if self.device is None else room_for_models(self.device))

    def _vae(self, card: ModelCard) -> str:
        variant = self.device.variant_of(card.variant) if self.device else None
        return vae_fingerprint(card, self.shelf, variant=variant)

    def _find_adapter(self, card: AdapterCard) -> Path:
        return find_adapter(card, self.shelf)
