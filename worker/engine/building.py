"""From a card to a loaded engine: what `Residency` builds with."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

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
from worker.device import Device, main_memory
from worker.engine.adapters import AdapterRack
from worker.engine.pipeline_engine import PipelineEngine
from worker.engine.port import Engine
from worker.engine.stub_engine import NAME as STUB
from worker.engine.stub_engine import StubEngine
from worker.memory import room_for_models, room_for_rows
from worker.pipelines.registry import family_of

# So that one job of an odd size does not start a compilation, which takes as long as hundreds of passes.
COMPILE_AFTER_PASSES = 50


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
        parts = load_components(card, self._loading_device(self.device), self.shelf)
        fuse_qkv = self.settings.fuse_qkv and not card.adapters  # they would find no place, and say nothing
        tune(parts, channels_last=self.settings.channels_last, fuse_qkv=fuse_qkv)
        adapters = AdapterRack(dict(card.adapters), self._find_adapter)
        if self._is_stepping(card):
            return self._step_engine(card, self.device, parts, adapters)
        return self._pipeline_engine(card, self.device, parts, adapters)

    def _loading_device(self, device: Device) -> Device:
        """Where parts are loaded to: with offloading, they wait in main memory."""
        if self.settings.offload == "off":
            return device
        return replace(device, torch_device=main_memory())

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

    def _pipeline_engine(self, card: ModelCard, device: Device, parts: dict[str, Any], adapters: AdapterRack) -> Engine:
        family, most = family_of(card), self.settings.batch_frames
        if self.settings.offload == "off":
            return PipelineEngine(family, parts, max_frames=most, adapters=adapters)
        from worker.engine.offloading import offload

        stage = offload(parts, device.torch_device)
        return PipelineEngine(family, parts, max_frames=most, adapters=adapters, stage=stage)

    def _step_engine(self, card: ModelCard, device: Device, parts: dict[str, Any], adapters: AdapterRack) -> Engine:
        from worker.engine.measuring import gauge_for
        from worker.engine.row_budget import RowBudget
        from worker.engine.step_engine import StepEngine

        room = self.settings.row_memory_bytes or room_for_rows(device)
        budget = RowBudget(self.settings.max_rows, room)
        family, gauge = family_of(card), gauge_for(device)
        if self.settings.compile == "off":
            return StepEngine(family, parts, budget=budget, gauge=gauge, adapters=adapters)
        from worker.engine.compiling import CompiledDenoiser, is_compiling

        unet = CompiledDenoiser(parts["unet"], most_rows=self.settings.max_rows, patience=COMPILE_AFTER_PASSES)
        return StepEngine(
            family,
            parts,
            budget=budget,
            gauge=gauge,
            adapters=adapters,
            fast={"unet": unet},
            is_disturbed=is_compiling,
        )

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
