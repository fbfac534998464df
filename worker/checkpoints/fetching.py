"""Fetching a checkpoint from the hub before it is needed."""

from pathlib import Path

from common.domain.catalogue import ModelCard
from worker.checkpoints.explaining import explain, missing_folder
from worker.checkpoints.loading import SAFE
from worker.checkpoints.places import Shelf, locate
from worker.pipelines.registry import family_of


def pull(card: ModelCard, shelf: Shelf, *, variant: str | None = None) -> Path:
    """Fetch what a worker would load into the hub cache, as far as it is not there; the folder it lies in.

    `variant` is `Device.variant_of(card.variant)` of the device it is for. Raises `JobFailure` (`model_unavailable`).
    """
    place = locate(card.source, shelf.models_dir)
    if isinstance(place, Path):
        if not place.is_dir():
            raise missing_folder(card)
        return place
    family = family_of(card)
    unwanted = {name: part for name, part in family.LOADING.items() if part is None}
    try:
        folder = family.loader().download(
            place.id, revision=place.revision, token=shelf.token, variant=variant, **SAFE, **unwanted
        )
    except Exception as error:
        raise explain(error, card, place) from error
    return Path(folder)
