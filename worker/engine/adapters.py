"""LoRA adapters on a loaded model: those of the next call, and none of the call before."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from common.domain.catalogue import AdapterCard
from common.domain.errors import JobFailure
from common.domain.params import AdapterUse
from worker.failures import is_device_lost, is_out_of_memory

Find = Callable[[AdapterCard], Path]


class AdapterRack:
    """What hangs on one model's parts now. `find` fetches an adapter's file; its folder is named in no error.

    Adapters change the shared parts themselves, so the rack belongs to them and to the device thread.
    """

    def __init__(self, cards: dict[str, AdapterCard] | None = None, find: Find | None = None) -> None:
        self._cards = cards or {}
        self._find = find
        self._held: tuple[AdapterUse, ...] = ()

    def holds(self, wanted: tuple[AdapterUse, ...]) -> bool:
        """Whether exactly these hang now."""
        return wanted == self._held

    def hold(self, pipeline: Any, wanted: tuple[AdapterUse, ...]) -> None:
        """Hang exactly these on the parts of `pipeline`.

        Raises `JobFailure` (`model_unavailable`) when one cannot be loaded; then none hangs.
        """
        if self.holds(wanted):
            return
        if self._held:
            pipeline.unload_lora_weights()
            self._held = ()
        if wanted:
            self._load(pipeline, wanted)
            self._held = wanted

    def _load(self, pipeline: Any, wanted: tuple[AdapterUse, ...]) -> None:
        try:
            for number, use in enumerate(wanted):
                file = self._file_of(use)
                pipeline.load_lora_weights(
                    str(file.parent), weight_name=file.name, adapter_name=f"adapter_{number}", local_files_only=True
                )
            names = [f"adapter_{number}" for number in range(len(wanted))]
            pipeline.set_adapters(names, [use.weight for use in wanted])
        except Exception as error:
            if is_device_lost(error):
                raise
            pipeline.unload_lora_weights()
            if is_out_of_memory(error) or isinstance(error, JobFailure):
                raise
            ids = ", ".join(use.id for use in wanted)
            detail = f"the adapters {ids} cannot be loaded onto this model. Run `darkroom models verify`"
            raise JobFailure(detail, code="model_unavailable") from error

    def _file_of(self, use: AdapterUse) -> Path:
        card = self._cards.get(use.id)
        if card is None or self._find is None:
            raise JobFailure(f"the adapter {use.id} left the catalogue", code="model_unavailable")
        return self._find(card)
