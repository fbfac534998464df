"""From a finished frame to a stored image: encode, put under a key with the fence, say what it cost."""

import hashlib
import time
from typing import Any, Literal

from PIL.Image import Image

from common import failpoints
from common.domain.job import GRID_INDEX, ClaimedJob, DoneStep, StoredImage
from common.domain.recipe import recipe_of
from common.images.encode import EXTENSIONS, EncodedImage, encode
from common.images.grid import before_and_after
from common.storage.keys import result_key, step_key
from common.storage.port import ObjectStore
from worker.handover import Handover, pack
from worker.store_access import insist

Index = int | Literal["grid"]


class ResultWriter:
    """Encodes and stores results. A key names job, fence and content, so that a zombie overwrites nothing."""

    def __init__(self, store: ObjectStore) -> None:
        self._store = store

    def write(self, job: ClaimedJob, number: int, index: int, picture: Image) -> tuple[StoredImage, dict[str, Any]]:
        """Image `index` of pass `number`, stored, and what that cost. Raises `StoreUnavailable` after five tries."""
        began = time.monotonic()
        params = job.params
        place = params.kept_passes.index(number) * params.num_images + index
        facts = recipe_of(params, index) if params.output.metadata else None
        stored = self._store_picture(job, place, picture, params.passes[number].seed_of(index), facts)
        return stored, {"store_ms": round((time.monotonic() - began) * 1000)}

    def write_grid(self, job: ClaimedJob, original: Image | None, pictures: list[Image]) -> StoredImage:
        """The input beside the results, stored; one picture of no input stands alone. Raises `StoreUnavailable`."""
        first, *others = pictures if original is None else [original, *pictures]
        grid = before_and_after(first, others) if others else first
        return self._store_picture(job, "grid", grid, job.params.seed, None)

    def write_step(self, job: ClaimedJob, number: int, handover: Handover) -> tuple[DoneStep, int]:
        """What pass `number` handed on, stored, and its size in bytes. Raises `StoreUnavailable`."""
        data = pack(handover)
        sha256 = hashlib.sha256(data).hexdigest()
        key = step_key(job.tenant_id, job.id, job.fence, number, sha256, "safetensors")
        self._put(key, data, "application/octet-stream")
        return DoneStep(number, key, sha256), len(data)

    def _store_picture(
        self, job: ClaimedJob, place: Index, picture: Image, seed: int, facts: dict[str, Any] | None
    ) -> StoredImage:
        output = job.params.output
        encoded = encode(picture, format=output.format, quality=output.quality, metadata=facts)
        key = result_key(job.tenant_id, job.id, job.fence, place, encoded.sha256, EXTENSIONS[output.format])
        failpoints.hit("worker.before_put")
        self._put(key, encoded.data, encoded.content_type)
        failpoints.hit("worker.put")
        return _stored(GRID_INDEX if place == "grid" else place, seed, key, encoded)

    def _put(self, key: str, data: bytes, content_type: str) -> None:
        insist(lambda: self._store.put(key, data, content_type))


def _stored(place: int, seed: int, key: str, encoded: EncodedImage) -> StoredImage:
    return StoredImage(
        index=place,
        key=key,
        seed=seed,
        width=encoded.width,
        height=encoded.height,
        content_type=encoded.content_type,
        bytes=len(encoded.data),
        sha256=encoded.sha256,
    )
