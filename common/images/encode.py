"""Pixels to a PNG, JPEG or WebP file, with or without the facts of how they were made.

The facts are a flat JSON object of strings. A PNG carries it as the text chunk `darkroom`; a JPEG or WebP as the EXIF
tag ImageDescription (0x010E) in the form `{"darkroom": {…}}`. Both are plain ASCII (JSON escapes the rest), so any
viewer shows them and `read_metadata` gets them back exactly.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from io import BytesIO
from typing import Any, Final, Literal

from PIL import ExifTags, Image
from PIL.PngImagePlugin import PngInfo

ImageFormat = Literal["png", "jpeg", "webp"]

CONTENT_TYPES: Final[Mapping[ImageFormat, str]] = {
    "png": "image/png",
    "jpeg": "image/jpeg",
    "webp": "image/webp",
}
EXTENSIONS: Final[Mapping[ImageFormat, str]] = {"png": "png", "jpeg": "jpg", "webp": "webp"}

# From this JPEG quality on, colour keeps the full resolution; below, 4:2:0 as cameras write it.
FULL_COLOUR_QUALITY: Final = 90

_KEY: Final = "darkroom"
_MAX_EXIF_BYTES: Final = 65_000


@dataclass(frozen=True, slots=True)
class EncodedImage:
    """A file ready to store: its bytes, their content type and SHA-256 (hexadecimal), and its size in pixels."""

    data: bytes
    content_type: str
    width: int
    height: int
    sha256: str


def encode(
    image: Image.Image,
    *,
    format: ImageFormat = "png",  # noqa: A002 - the word of the API
    quality: int = 90,
    metadata: Mapping[str, str] | None = None,
) -> EncodedImage:
    """Encode an image of mode RGB.

    `quality` (1-100) counts for JPEG and WebP. `metadata` None strips everything; else the file carries exactly these
    pairs. The same pixels and options give the same bytes with the same Pillow. Raises ValueError for another mode, a
    quality outside its range, or metadata that fills more than the 64 KiB EXIF allows.
    """
    if image.mode != "RGB":
        raise ValueError(f"only RGB images are encoded, not {image.mode}")
    if not 1 <= quality <= 100:
        raise ValueError(f"quality is from 1 to 100, not {quality}")
    bare = image.copy()
    bare.info = {}
    buffer = BytesIO()
    bare.save(buffer, format=format, **_options(format, quality, metadata))
    data = buffer.getvalue()
    digest = hashlib.sha256(data).hexdigest()
    return EncodedImage(data, CONTENT_TYPES[format], image.width, image.height, digest)


def read_metadata(data: bytes) -> dict[str, str] | None:
    """The pairs that `encode` put into this file, or None when there are none. For our own files only."""
    with Image.open(BytesIO(data), formats=("PNG", "JPEG", "WEBP")) as image:
        if image.format == "PNG":
            return _pairs(_parse(image.info.get(_KEY)))
        description = _parse(image.getexif().get(ExifTags.Base.ImageDescription))
    return _pairs(description.get(_KEY)) if isinstance(description, dict) else None


def _options(
    format: ImageFormat,  # noqa: A002
    quality: int,
    metadata: Mapping[str, str] | None,
) -> dict[str, Any]:
    """What Pillow's writer is told. Level 1 and method 0: the encoder must keep up with the device."""
    if format == "png":
        return {"compress_level": 1} | ({} if metadata is None else {"pnginfo": _text_chunk(metadata)})
    exif = {} if metadata is None else {"exif": _exif(metadata)}
    if format == "webp":
        return {"quality": quality, "method": 0} | exif
    return {"quality": quality, "subsampling": 0 if quality >= FULL_COLOUR_QUALITY else 2} | exif


def _text_chunk(metadata: Mapping[str, str]) -> PngInfo:
    info = PngInfo()
    info.add_text(_KEY, _canonical_json(dict(metadata)))
    return info


def _exif(metadata: Mapping[str, str]) -> bytes:
    exif = Image.Exif()
    exif[ExifTags.Base.ImageDescription] = _canonical_json({_KEY: dict(metadata)})
    block = exif.tobytes()
    if len(block) > _MAX_EXIF_BYTES:
        raise ValueError(f"the metadata takes {len(block)} bytes of EXIF; at most {_MAX_EXIF_BYTES} fit")
    return block


def _canonical_json(value: Mapping[str, Any]) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"))


def _parse(text: object) -> object:
    if not isinstance(text, str):
        return None
    try:
        return json.loads(text)
    except ValueError:
        return None


def _pairs(value: object) -> dict[str, str] | None:
    if not isinstance(value, dict):
        return None
    return {str(key): str(item) for key, item in value.items()}
