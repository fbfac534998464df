"""Where the file of an adapter is."""

from pathlib import Path

from common.domain.catalogue import AdapterCard
from common.domain.errors import JobFailure
from worker.checkpoints.places import HubRepository, Shelf, locate


def find_adapter(card: AdapterCard, shelf: Shelf) -> Path:
    """The safetensors file of an adapter, fetched from the hub if this process may.

    Raises `JobFailure` (`model_unavailable`) when it is not there.
    """
    place = locate(card.source, shelf.models_dir)
    file = place / card.weights if isinstance(place, Path) else _from_hub(card, place, shelf)
    if not file.is_file():
        raise JobFailure(f"adapter {card.id}: its file {card.weights} is not there", code="model_unavailable")
    return file


def _from_hub(card: AdapterCard, place: HubRepository, shelf: Shelf) -> Path:
    from huggingface_hub import hf_hub_download

    try:
        found = hf_hub_download(
            place.id,
            card.weights,
            revision=place.revision,
            token=shelf.token,
            local_files_only=not shelf.may_download,
        )
    except Exception as error:
        detail = f"adapter {card.id}: {place.page} cannot be reached and is not in the cache. Pull its model online"
        raise JobFailure(detail, code="model_unavailable") from error
    return Path(found)
