"""Whether two models share a VAE, told by its content: the same tensors and the same scaling, whatever the names."""

import hashlib
import json
from functools import lru_cache
from pathlib import Path

from common.domain.catalogue import ModelCard
from worker.checkpoints.places import Shelf
from worker.checkpoints.verifying import snapshot_of

_CHUNK_BYTES = 1 << 20
_FACTS = ("scaling_factor", "shift_factor", "latents_mean", "latents_std", "latent_channels")


def vae_fingerprint(card: ModelCard, shelf: Shelf, *, variant: str | None) -> str:
    """SHA-256 over the tensors and the scaling of a model's VAE; its own id for a model that has none.

    Raises `JobFailure` (`model_unavailable`) when the checkpoint is not there.
    """
    folder = snapshot_of(card, card.source, shelf) / "vae"
    weights = _weights_in(folder, variant)
    if weights is None:
        return card.id
    facts = weights.stat()
    return _fingerprint(folder, weights.name, facts.st_mtime_ns, facts.st_size)


def _weights_in(folder: Path, variant: str | None) -> Path | None:
    names = [f"diffusion_pytorch_model.{variant}.safetensors"] if variant else []
    names.append("diffusion_pytorch_model.safetensors")
    return next((folder / name for name in names if (folder / name).is_file()), None)


@lru_cache(maxsize=64)
def _fingerprint(folder: Path, name: str, _mtime: int, _size: int) -> str:
    digest = hashlib.sha256()
    with (folder / name).open("rb") as file:
        header_bytes = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(header_bytes))
        header.pop("__metadata__", None)  # who wrote the file does not matter
        digest.update(json.dumps(header, sort_keys=True).encode())
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
    config = json.loads((folder / "config.json").read_bytes())
    digest.update(json.dumps([config.get(fact) for fact in _FACTS]).encode())
    return digest.hexdigest()
