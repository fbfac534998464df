"""Pictures on their way to the server: what a job's `image` and `mask` may be, and how large files travel ahead."""

import base64
import hashlib
import mimetypes
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeAlias

# Above this size a file goes straight to the object store, where there is one, and not through the API.
DIRECT_BYTES: Final = 8 << 20

_SIGNATURES: Final = {b"\x89PNG\r\n\x1a\n": "image/png", b"\xff\xd8\xff": "image/jpeg"}


@dataclass(frozen=True, slots=True)
class Upload:
    """An image that the server holds for a day; `submit(image=upload)` uses it, any number of times.

    `raw` is the server's JSON. The size in pixels is that of the upright picture.
    """

    raw: dict[str, Any]

    @property
    def id(self) -> str:
        """The id, `upl_…`."""
        return str(self.raw["id"])

    @property
    def status(self) -> str:
        """`pending`, `ready` or `rejected`."""
        return str(self.raw["status"])

    @property
    def width(self) -> int | None:
        """Pixels; None until it is ready."""
        return self.raw.get("width")

    @property
    def height(self) -> int | None:
        """Pixels; None until it is ready."""
        return self.raw.get("height")

    def as_input(self) -> dict[str, Any]:
        """What a job request says in place of the picture."""
        return {"upload": self.id}


Source: TypeAlias = str | os.PathLike[str] | bytes | Mapping[str, Any] | Upload


@dataclass(frozen=True, slots=True)
class FilePart:
    """One file of a form."""

    name: str
    data: bytes
    content_type: str

    def as_part(self) -> tuple[str, bytes, str]:
        """As httpx takes it."""
        return self.name, self.data, self.content_type

    def as_data_url(self) -> str:
        """As JSON takes it; the server looks at the bytes and not at the type."""
        return f"data:{_sniff(self.data) or 'image/png'};base64,{base64.b64encode(self.data).decode()}"


def split_sources(sources: Mapping[str, Source | None]) -> tuple[dict[str, Any], dict[str, FilePart]]:
    """The given inputs by role: those that are JSON, and those that are files. Raises OSError for an unreadable one."""
    members: dict[str, Any] = {}
    files: dict[str, FilePart] = {}
    for role, source in sources.items():
        if isinstance(source, Upload):
            members[role] = source.as_input()
        elif isinstance(source, Mapping):
            members[role] = dict(source)
        elif source is not None:
            files[role] = read_part(source, role)
    return members, files


def read_part(source: str | os.PathLike[str] | bytes, name: str) -> FilePart:
    """The file, or the bytes under this name. Raises OSError."""
    if isinstance(source, bytes):
        return FilePart(name, source, "application/octet-stream")
    path = Path(source)
    kind = mimetypes.guess_type(path.name, strict=False)[0]
    return FilePart(path.name, path.read_bytes(), kind or "application/octet-stream")


def declaration_of(data: bytes) -> dict[str, Any] | None:
    """What a presign asks to know of a file; None for one that is no PNG, JPEG or WebP."""
    content_type = _sniff(data)
    if content_type is None:
        return None
    return {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest(), "content_type": content_type}


def _sniff(data: bytes) -> str | None:
    if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        return "image/webp"
    return next((kind for signature, kind in _SIGNATURES.items() if data.startswith(signature)), None)
