"""From a card to a loaded engine: what `Residency` builds with."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common.domain.capabilities import Task
from common.domain.catalogue import AdapterCard, Catalogue, ModelCard
from common.domain.errors import JobFailure
from common.domain.params import PassParams
from common.settings import Settings
from worker.checkpoints.adapters import find_adapter
from worker.checkpoints.fingerprints import vae_fingerprint
from worker.checkpoints.loading import load_components
from worker.checkpoints.places import Shelf
from worker.checkpoints.tuning import tune
from worker.device import Device
from worker.engine.adapters import AdapterRack
from worker.engine.pipeline_engine import PipelineEngine
from worker.engine.port import Engine
from worker.engine.stub_engine import NAME as STUB
from worker.engine.stub_engine import StubEngine
from worker.memory import room_for_models, room_for_rows
from worker.pipelines.registry import family_of

if TYPE_CHECKING:
    from worker.engine.passes import FastRun


@dataclass(frozen=True, slots=True)
class Capacity:
    """How many frames a worker has on its device at most, and whether new ones can join those that run."""

    frames: int
    has_late_join: bool


@dataclass(frozen=True, slots=True)
class EngineBuilder:
    """Loads engines for one device; call it with a card.

    `device` is None in a worker that serves stub models only, which then never loads torch.
    """

    device: Device | None
    shelf: Shelf
    catalogue: Catalogue
    settings: Settings

    def __call__(self, card: ModelCard) -> Engine:
        """The engine of this model; raises `JobFailure` (`model_unavailable`)."""
        if card.family == STUB:
            return StubEngine(step_seconds=self.settings.stub_step_seconds, max_frames=self.settings.batch_frames)
        if self.device is None:
            raise ValueError(f"model {card.id} needs a device")
        parts = load_components(card, self.device, self.shelf)
        tune(parts, channels_last=self.settings.channels_last, fuse_qkv=self.settings.fuse_qkv)
        adapters = AdapterRack(dict(card.adapters), self._find_adapter)
        if self._is_stepping(card):
            return self._step_engine(card, self.device, parts, adapters)
        return PipelineEngine(family_of(card), parts, max_frames=self.settings.batch_frames, adapters=adapters)

    @property
    def capacity(self) -> Capacity:
        """What the claimer may fill."""
        if self.device is None:
            return Capacity(self.settings.batch_frames, has_late_join=True)
        if self.settings.engine == "pipeline" or self.settings.offload != "off":
            return Capacity(self.settings.batch_frames, has_late_join=False)
        return Capacity(self.settings.max_rows // 2, has_late_join=True)

    def _is_stepping(self, card: ModelCard) -> bool:
        """Whether this model runs on the step engine. Raises `JobFailure` where it must and cannot."""
        if self.settings.engine == "pipeline" or self.settings.offload != "off":
            return False
        can = card.capability.is_continuous
        if self.settings.engine == "step" and not can:
            detail = f"model {card.id} runs on the pipeline engine only, and this worker has DARKROOM_ENGINE=step"
            raise JobFailure(detail, code="model_unavailable")
        return can

    def _step_engine(self, card: ModelCard, device: Device, parts: dict[str, Any], adapters: AdapterRack) -> Engine:
        from worker.engine.measuring import gauge_for
        from worker.engine.row_budget import RowBudget
        from worker.engine.step_engine import StepEngine

        room = self.settings.row_memory_bytes or room_for_rows(device)
        budget = RowBudget(self.settings.max_rows, room)
        fast = self._compiled(parts)
        return StepEngine(family_of(card), parts, budget=budget, gauge=gauge_for(device), adapters=adapters, fast=fast)

    def _compiled(self, parts: dict[str, Any]) -> "dict[str, FastRun]":
        if self.settings.compile == "off":
            return {}
        from worker.engine.compiling import CompiledDenoiser

        return {"unet": CompiledDenoiser(parts["unet"], most_rows=self.settings.max_rows)}

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
