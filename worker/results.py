"""From a finished frame to a stored image: encode, put under a key with the fence, say what it cost."""

import time
from dataclasses import replace
from typing import Any

from common.domain.job import ClaimedJob, StoredImage
from common.domain.params import EditParams
from common.images.encode import EXTENSIONS, EncodedImage, encode
from common.storage.keys import result_key
from common.storage.port import ObjectStore, StoreUnavailable
from worker.engine.port import Finished

_PAUSES_SECONDS = (0.2, 0.4, 0.8, 1.6)


class ResultWriter:
    """Encodes and stores results. A key names job, fence and content, so that a zombie overwrites nothing."""

    def __init__(self, store: ObjectStore) -> None:
        self._store = store

    def write(self, job: ClaimedJob, frame: Finished) -> tuple[StoredImage, dict[str, Any]]:
        """The stored image and what it cost. Raises `StoreUnavailable` after five tries."""
        began = time.monotonic()
        encoded = _encode(job.params, frame)
        key = result_key(
            job.tenant_id, job.id, job.fence, frame.ref.index, encoded.sha256, EXTENSIONS[job.params.output.format]
        )
        self._put(key, encoded)
        facts = dict(frame.facts) | {"store_ms": round((time.monotonic() - began) * 1000)}
        return _stored(job.params, frame.ref.index, key, encoded), facts

    def _put(self, key: str, encoded: EncodedImage) -> None:
        for pause in _PAUSES_SECONDS:
            try:
                return self._store.put(key, encoded.data, encoded.content_type)
            except StoreUnavailable:
                time.sleep(pause)
        return self._store.put(key, encoded.data, encoded.content_type)


def describe(params: EditParams, seed: int) -> dict[str, str]:
    """What a result says of itself: everything that is needed to make it again."""
    own = replace(params, seed=seed, num_images=1).as_dict()
    return {name: str(value) for name, value in own.items() if value is not None and name != "output"}


def _encode(params: EditParams, frame: Finished) -> EncodedImage:
    output = params.output
    facts = describe(params, params.seed_of(frame.ref.index)) if output.metadata else None
    return encode(frame.pixels, format=output.format, quality=output.quality, metadata=facts)


def _stored(params: EditParams, index: int, key: str, encoded: EncodedImage) -> StoredImage:
    return StoredImage(
        index=index,
        key=key,
        seed=params.seed_of(index),
        width=encoded.width,
        height=encoded.height,
        content_type=encoded.content_type,
        bytes=len(encoded.data),
        sha256=encoded.sha256,
    )
