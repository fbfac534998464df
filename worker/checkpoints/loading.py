"""Loading a checkpoint: the one way, of production and of tests."""

from collections.abc import Iterator
from inspect import signature
from pathlib import Path
from typing import Any

from common.domain.catalogue import ModelCard, Source
from worker.checkpoints.explaining import explain, missing_folder
from worker.checkpoints.places import HubRepository, Shelf, locate
from worker.device import Device
from worker.failures import is_device_lost, is_out_of_memory
from worker.pipelines import kandinsky_prior
from worker.pipelines.family import Loadable
from worker.pipelines.registry import family_of

# No weights but safetensors, and nobody else's code: `trust_remote_code` and custom pipelines stay off.
SAFE = {"use_safetensors": True, "trust_remote_code": False}


def load_components(card: ModelCard, device: Device, shelf: Shelf) -> dict[str, Any]:
    """The parts of a model by name (`unet`, `vae`, `scheduler`, …), on the device, in its number format.

    Among them are the settings of the checkpoint's pipeline, and the parts of a prior as `prior_…`. Raises
    `JobFailure` (`model_unavailable`) with a sentence that says what to do.
    """
    parts = parts_of(load_pipeline(card, device, shelf))
    if card.prior is not None:
        prior = _load(card, card.prior, kandinsky_prior, device, shelf)
        parts |= {kandinsky_prior.PREFIX + name: part for name, part in prior.components.items()}
    return parts


def load_pipeline(card: ModelCard, device: Device, shelf: Shelf) -> Any:
    """The diffusers pipeline of a model, on the device. Raises as `load_components` does."""
    return _load(card, card.source, family_of(card), device, shelf)


def parts_of(pipeline: Any) -> dict[str, Any]:
    """Everything that a pipeline must be given to be built again: its components and what its configuration settles."""
    parts = dict(pipeline.components)
    arguments = signature(type(pipeline)).parameters
    return parts | {name: pipeline.config[name] for name in arguments if name in pipeline.config and name not in parts}


def sources_of(card: ModelCard) -> Iterator[tuple[Source, Loadable]]:
    """Each place that a model's weights come from, and how they are loaded."""
    yield card.source, family_of(card)
    if card.prior is not None:
        yield card.prior, kandinsky_prior


def _load(card: ModelCard, source: Source, how: Loadable, device: Device, shelf: Shelf) -> Any:
    place = locate(source, shelf.models_dir)
    if isinstance(place, Path) and not place.is_dir():
        raise missing_folder(card)
    try:
        pipeline = _from_pretrained(card, place, how, device, shelf).to(device.torch_device)
    except Exception as error:
        if is_out_of_memory(error) or is_device_lost(error):
            raise
        raise explain(error, card, place) from error
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def _from_pretrained(card: ModelCard, place: Path | HubRepository, how: Loadable, device: Device, shelf: Shelf) -> Any:
    return how.loader().from_pretrained(
        str(place) if isinstance(place, Path) else place.id,
        dtype=device.dtype,
        variant=device.variant_of(card.variant),
        **_access(place, shelf),
        **SAFE,
        **how.LOADING,
    )


def _access(place: Path | HubRepository, shelf: Shelf) -> dict[str, Any]:
    if isinstance(place, Path):
        return {"local_files_only": True}
    return {"revision": place.revision, "token": shelf.token, "local_files_only": not shelf.may_download}
