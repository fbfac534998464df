"""Checking a checkpoint on disk without loading it."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from common.domain.catalogue import AdapterCard, ModelCard, Source
from common.domain.errors import JobFailure
from worker.checkpoints.adapters import find_adapter
from worker.checkpoints.explaining import explain, missing_folder
from worker.checkpoints.places import HubRepository, Shelf, locate

_LIBRARIES = frozenset({"diffusers", "transformers", "stable_diffusion"})
_SKIPPED = frozenset({"safety_checker", "feature_extractor", "image_encoder", "image_processor"})
_WEIGHTLESS = ("Scheduler", "Tokenizer", "TokenizerFast", "ImageProcessor", "ImageProcessorPil")
_LARGEST_HEADER_BYTES = 100_000_000


def verify(card: ModelCard, shelf: Shelf) -> list[str]:
    """What is wrong with a model's files, one sentence each; empty when they look whole.

    Reads configs and the headers of weight files only: a flipped bit inside a tensor is not found.
    """
    sources = (card.source,) if card.prior is None else (card.source, card.prior)
    found = [problem for source in sources for problem in _verify(card, source, shelf)]
    return [*found, *(problem for adapter in card.adapters.values() for problem in _verify_adapter(adapter, shelf))]


def weight_problem(path: Path) -> str | None:
    """What is wrong with a safetensors file, judged by its header and its length; None when nothing is."""
    size = path.stat().st_size
    with path.open("rb") as file:
        header_bytes = int.from_bytes(file.read(8), "little")
        if size < 8 or header_bytes > min(size - 8, _LARGEST_HEADER_BYTES):
            return f"{path}: no safetensors header, or it is cut short"
        header = _parse(file.read(header_bytes))
    if header is None:
        return f"{path}: its safetensors header is damaged"
    ends = [tensor["data_offsets"][1] for name, tensor in header.items() if name != "__metadata__"]
    expected = 8 + header_bytes + max(ends, default=0)
    return None if size == expected else f"{path}: has {size} bytes, its header says {expected}"


def _verify_adapter(adapter: AdapterCard, shelf: Shelf) -> list[str]:
    try:
        problem = weight_problem(find_adapter(adapter, replace(shelf, may_download=False)))
    except JobFailure as failure:
        return [failure.detail]
    return [problem] if problem else []


def _verify(card: ModelCard, source: Source, shelf: Shelf) -> list[str]:
    try:
        folder = snapshot_of(card, source, shelf)
    except JobFailure as failure:
        return [failure.detail]
    index = _read_json(folder / "model_index.json")
    if index is None:
        return [f"{folder}: model_index.json is missing or not JSON"]
    return [problem for name, classes in sorted(_parts(index)) for problem in _check_part(folder / name, classes)]


def snapshot_of(card: ModelCard, source: Source, shelf: Shelf) -> Path:
    """The folder of a checkpoint that is on this machine, without asking the hub.

    Raises `JobFailure` (`model_unavailable`) when it is not.
    """
    place = locate(source, shelf.models_dir)
    if isinstance(place, HubRepository):
        return _snapshot(card, place)
    if not place.is_dir():
        raise missing_folder(card)
    return place


def _snapshot(card: ModelCard, place: HubRepository) -> Path:
    from huggingface_hub import hf_hub_download

    try:
        index = hf_hub_download(place.id, "model_index.json", revision=place.revision, local_files_only=True)
    except Exception as error:
        raise explain(error, card, place) from error
    return Path(index).parent


def _parts(index: dict[str, Any]) -> Iterator[tuple[str, tuple[str | None, str | None]]]:
    for name, classes in index.items():
        if isinstance(classes, list) and len(classes) == 2 and name not in _SKIPPED and classes[1] is not None:
            yield name, (classes[0], classes[1])


def _check_part(folder: Path, classes: tuple[str | None, str | None]) -> Iterator[str]:
    library, kind = classes
    if library not in _LIBRARIES:
        yield f"{folder}: wants code of {library!r}, which is not loaded"
    if not folder.is_dir():
        yield f"{folder}: the folder is missing"
        return
    if kind is not None and kind.endswith(_WEIGHTLESS):
        return
    weights = sorted(folder.glob("*.safetensors"))
    if not weights:
        yield f"{folder}: no safetensors weights"
    yield from filter(None, map(weight_problem, weights))
    yield from _missing_shards(folder)


def _missing_shards(folder: Path) -> Iterator[str]:
    for index in sorted(folder.glob("*.safetensors.index.json")):
        shards = (_read_json(index) or {}).get("weight_map", {}).values()
        yield from (f"{folder / shard}: is missing" for shard in sorted(set(shards)) if not (folder / shard).is_file())


def _read_json(path: Path) -> dict[str, Any] | None:
    return _parse(path.read_bytes()) if path.is_file() else None


def _parse(text: bytes) -> dict[str, Any] | None:
    try:
        members = json.loads(text)
    except ValueError:
        return None
    return members if isinstance(members, dict) else None
