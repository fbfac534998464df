"""Loading a checkpoint: the one way, of production and of tests."""

from pathlib import Path
from typing import Any

from common.domain.catalogue import ModelCard
from worker.checkpoints.explaining import explain, missing_folder
from worker.checkpoints.places import HubRepository, Shelf, locate
from worker.device import Device
from worker.failures import is_device_lost, is_out_of_memory
from worker.pipelines.registry import family_of

# No weights but safetensors, and nobody else's code: `trust_remote_code` and custom pipelines stay off.
SAFE = {"use_safetensors": True, "trust_remote_code": False}


def load_components(card: ModelCard, device: Device, shelf: Shelf) -> dict[str, Any]:
    """The parts of a model by name (`unet`, `vae`, `scheduler`, …), on the device, in its number format.

    Raises `JobFailure` (`model_unavailable`) with a sentence that says what to do.
    """
    return dict(load_pipeline(card, device, shelf).components)


def load_pipeline(card: ModelCard, device: Device, shelf: Shelf) -> Any:
    """The diffusers pipeline of a model, on the device. Raises as `load_components` does."""
    place = locate(card.source, shelf.models_dir)
    if isinstance(place, Path) and not place.is_dir():
        raise missing_folder(card)
    try:
        pipeline = _from_pretrained(card, place, device, shelf).to(device.torch_device)
    except Exception as error:
        if is_out_of_memory(error) or is_device_lost(error):
            raise
        raise explain(error, card, place) from error
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def _from_pretrained(card: ModelCard, place: Path | HubRepository, device: Device, shelf: Shelf) -> Any:
    family = family_of(card)
    return family.loader().from_pretrained(
        str(place) if isinstance(place, Path) else place.id,
        dtype=device.dtype,
        variant=device.variant_of(card.variant),
        **_access(place, shelf),
        **SAFE,
        **family.LOADING,
    )


def _access(place: Path | HubRepository, shelf: Shelf) -> dict[str, Any]:
    if isinstance(place, Path):
        return {"local_files_only": True}
    return {"revision": place.revision, "token": shelf.token, "local_files_only": not shelf.may_download}
