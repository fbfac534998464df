"""Pixels to a PNG, JPEG or WebP file, with or without the recipe that made them (see `common.images.embedding`)."""

import hashlib
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from io import BytesIO
from typing import Any, Final, Literal

from PIL import Image, UnidentifiedImageError

from common.images.embedding import find_recipe, jpeg_exif, png_text, webp_exif

ImageFormat = Literal["png", "jpeg", "webp"]

CONTENT_TYPES: Final[Mapping[ImageFormat, str]] = {
    "png": "image/png",
    "jpeg": "image/jpeg",
    "webp": "image/webp",
}
EXTENSIONS: Final[Mapping[ImageFormat, str]] = {"png": "png", "jpeg": "jpg", "webp": "webp"}

# From this JPEG quality on, colour keeps the full resolution; below, 4:2:0 as cameras write it.
FULL_COLOUR_QUALITY: Final = 90


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
    metadata: Mapping[str, Any] | None = None,
) -> EncodedImage:
    """Encode an image of mode RGB.

    `quality` (1-100) counts for JPEG and WebP. `metadata` is a JSON object, which the file then carries; None strips
    everything. A recipe too long for a JPEG loses the prompts of its `steps`, then all, and gains `"truncated": true`.
    The same pixels and options give the same bytes with the same Pillow. Raises ValueError for another mode or a
    quality outside its range.
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


def read_metadata(data: bytes) -> dict[str, Any] | None:
    """The JSON object that `encode` put into this file, or None when there is none.

    Only the header is read, no pixel. Raises ValueError for bytes that are no PNG, JPEG or WebP.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # About size or damage that does not matter here.
            with Image.open(BytesIO(data), formats=("PNG", "JPEG", "WEBP")) as image:
                return find_recipe(image)
    except (UnidentifiedImageError, OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError("not a readable PNG, JPEG or WebP file") from error


def _options(
    format: ImageFormat,  # noqa: A002
    quality: int,
    metadata: Mapping[str, Any] | None,
) -> dict[str, Any]:
    """What Pillow's writer is told. Level 1 and method 0: the encoder must keep up with the device."""
    if format == "png":
        return {"compress_level": 1} | ({} if metadata is None else {"pnginfo": png_text(metadata)})
    if format == "webp":
        return {"quality": quality, "method": 0} | ({} if metadata is None else {"exif": webp_exif(metadata)})
    subsampling = 0 if quality >= FULL_COLOUR_QUALITY else 2
    exif = {} if metadata is None else {"exif": jpeg_exif(metadata)}
    return {"quality": quality, "subsampling": subsampling} | exif
