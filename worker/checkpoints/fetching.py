"""Fetching a checkpoint from the hub before it is needed."""

from pathlib import Path

from common.domain.catalogue import ModelCard, Source
from worker.checkpoints.adapters import find_adapter
from worker.checkpoints.explaining import explain, missing_folder
from worker.checkpoints.loading import SAFE, sources_of
from worker.checkpoints.places import Shelf, locate
from worker.pipelines.family import Loadable


def pull(card: ModelCard, shelf: Shelf, *, variant: str | None = None) -> Path:
    """Fetch what a worker would load into the hub cache, as far as it is not there; the folder it lies in.

    A prior and the adapters are fetched too; the folder is that of the model itself. `variant` is
    `Device.variant_of(card.variant)` of the device it is for. Raises `JobFailure` (`model_unavailable`).
    """
    folders = [_pull(card, source, how, shelf, variant) for source, how in sources_of(card)]
    for adapter in card.adapters.values():
        find_adapter(adapter, shelf)
    return folders[0]


def _pull(card: ModelCard, source: Source, how: Loadable, shelf: Shelf, variant: str | None) -> Path:
    place = locate(source, shelf.models_dir)
    if isinstance(place, Path):
        if not place.is_dir():
            raise missing_folder(card)
        return place
    unwanted = {name: part for name, part in how.LOADING.items() if part is None}
    try:
        folder = how.loader().download(
            place.id, revision=place.revision, token=shelf.token, variant=variant, **SAFE, **unwanted
        )
    except Exception as error:
        raise explain(error, card, place) from error
    return Path(folder)
