"""In-memory twins of what the API stands on."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import BinaryIO

from common.images.untrusted import DecodedImage, ImageRejected
from common.storage.port import ObjectInfo, ObjectMissing, PresignedPut, StoreUnavailable

_EPOCH = datetime(2026, 1, 1, tzinfo=UTC)


@dataclass
class MemoryStore:
    """Objects in a dict. `presigns`: it has URLs; `is_away`: every call fails."""

    objects: dict[str, bytes] = field(default_factory=dict)
    presigns: bool = False
    is_away: bool = False

    def put(self, key: str, data: bytes | BinaryIO, content_type: str, *, if_absent: bool = False) -> None:
        self._check(key)
        content = data if isinstance(data, bytes) else data.read()
        if not (if_absent and key in self.objects):
            self.objects[key] = content

    def get(self, key: str) -> bytes:
        self._check(key)
        if key not in self.objects:
            raise ObjectMissing(key)
        return self.objects[key]

    def stream(self, key: str) -> Iterator[bytes]:
        return iter([self.get(key)])

    def head(self, key: str) -> ObjectInfo | None:
        self._check(key)
        return ObjectInfo(key, len(self.objects[key]), _EPOCH) if key in self.objects else None

    def delete(self, key: str) -> None:
        self.objects.pop(key, None)

    def list(self, prefix: str = "", *, after: str = "") -> Iterator[ObjectInfo]:
        for key in sorted(self.objects):
            if key.startswith(prefix) and key > after:
                yield ObjectInfo(key, len(self.objects[key]), _EPOCH)

    def presign_get(
        self, key: str, *, expires_seconds: int, content_type: str, filename: str | None = None
    ) -> str | None:
        return f"https://store.example/{key}?for={expires_seconds}&as={filename}" if self.presigns else None

    def presign_put(
        self, key: str, *, content_type: str, size_bytes: int, sha256: str, expires_seconds: int
    ) -> PresignedPut | None:
        headers = {"Content-Type": content_type, "Content-Length": str(size_bytes)}
        return PresignedPut(f"https://store.example/{key}?for={expires_seconds}", headers) if self.presigns else None

    def _check(self, key: str) -> None:
        if self.is_away:
            raise StoreUnavailable(key, "away")


@dataclass
class FakeDecoder:
    """Takes `picture(width, height)` and refuses everything else; counts."""

    decoded: int = 0

    def decode(self, data: bytes) -> DecodedImage:
        if not data.startswith(b"PICTURE "):
            raise ImageRejected("image_unreadable", "The PNG file is damaged or incomplete.")
        self.decoded += 1
        width, height = (int(side) for side in data.split()[1:3])
        png = b"clean " + data
        return DecodedImage(png, width, height, hashlib.sha256(png).hexdigest(), "PNG")

    def close(self) -> None:
        pass


@dataclass
class RecordingBell:
    """Remembers who was rung, and what `look` saw at that moment."""

    rings: list[tuple[str, int]] = field(default_factory=list)
    courier_rings: int = 0
    is_ok: bool = True

    def ring(self, pool: str, jobs: int = 1) -> None:
        self.rings.append((pool, jobs))

    def ring_courier(self) -> None:
        self.courier_rings += 1


def picture(width: int = 300, height: int = 200) -> bytes:
    """What the fake decoder takes for a picture."""
    return b"PICTURE %d %d" % (width, height)
