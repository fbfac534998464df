"""Untrusted bytes to a clean picture. Runs in the child process of `sandbox` only: it sets Pillow's global limits."""

import hashlib
import struct
import warnings
from io import BytesIO
from typing import Final

from PIL import ExifTags, Image, ImageFile, PngImagePlugin

from common.images.colour import fit_transparency_key, to_srgb
from common.images.untrusted import (
    DecodedImage,
    ImageLimits,
    ImageRejected,
    SourceFormat,
    allowed_dimensions,
    check_dimensions,
    check_size_in_bytes,
    sniff_format,
)

# Value of the EXIF tag 0x0112 (EXIF 2.32, section 4.6.4 A) to the move that makes the picture upright.
_UPRIGHT: Final = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def decode_untrusted(data: bytes, *, limits: ImageLimits) -> DecodedImage:
    """Decode a PNG, JPEG or WebP file of one frame and encode its pixels anew.

    The size in the file's header is checked before any pixel is loaded. The result is upright (EXIF orientation),
    8-bit sRGB, RGBA if any pixel is not opaque and else RGB, and keeps nothing of the file but the pixels that can be
    seen. Raises `ImageRejected` for anything else; no other exception leaves, whatever the bytes are.
    """
    check_size_in_bytes(len(data), limits)
    source_format = sniff_format(data)
    limit_pillow(limits)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            picture = _load_upright(data, source_format, limits)
            png = _clean_png(picture)
    except ImageRejected:
        raise
    except Image.DecompressionBombError as error:
        detail = f"The image has too many pixels; {allowed_dimensions(limits)}"
        raise ImageRejected("image_too_large", detail) from error
    except MemoryError as error:
        raise _unreadable(source_format, "needs too much memory to decode") from error
    except Exception as error:  # The edge: hostile bytes may raise anything in any codec.
        raise _unreadable(source_format, "is damaged or incomplete") from error
    digest = hashlib.sha256(png).hexdigest()
    return DecodedImage(png, picture.width, picture.height, digest, source_format, picture.mode == "RGBA")


def limit_pillow(limits: ImageLimits) -> None:
    """Set Pillow's process-wide limits.

    Pillow raises above twice `MAX_IMAGE_PIXELS` and only warns above once; WebP allocates its canvas before the
    warning. Half our limit there makes the error itself the limit.
    """
    Image.MAX_IMAGE_PIXELS = limits.max_pixels // 2
    ImageFile.LOAD_TRUNCATED_IMAGES = False
    PngImagePlugin.MAX_TEXT_CHUNK = 1024 * 1024
    PngImagePlugin.MAX_TEXT_MEMORY = 4 * 1024 * 1024


def _load_upright(data: bytes, source_format: SourceFormat, limits: ImageLimits) -> Image.Image:
    pixels, orientation = _load_pixels(data, source_format, limits)
    clean = to_srgb(pixels)
    del pixels
    move = _UPRIGHT.get(orientation)
    return clean if move is None else clean.transpose(move)


def _load_pixels(data: bytes, source_format: SourceFormat, limits: ImageLimits) -> tuple[Image.Image, int]:
    """The pixels as they are in the file, and the EXIF orientation.

    They are a copy, so that the codec and its buffers (twice the picture for WebP) go before the next step.
    """
    with Image.open(BytesIO(data), formats=(source_format,)) as image:
        check_dimensions(*image.size, limits)
        # A phone's JPEG may carry a second picture (MPO: depth, HDR gain); the first is the photograph.
        if image.format != "MPO" and getattr(image, "n_frames", 1) > 1:
            raise _unreadable(source_format, "has several frames")
        fit_transparency_key(image)
        image.load()
        return image.copy(), _orientation(image)


def _orientation(image: Image.Image) -> int:
    """The EXIF orientation, 1 (upright) when there is none or the EXIF block is broken."""
    try:
        value = image.getexif().get(ExifTags.Base.Orientation, 1)
    except (SyntaxError, ValueError, KeyError, IndexError, TypeError, OSError, struct.error):
        return 1
    return value if isinstance(value, int) else 1


def _clean_png(picture: Image.Image) -> bytes:
    buffer = BytesIO()
    picture.save(buffer, format="PNG", compress_level=1)
    return buffer.getvalue()


def _unreadable(source_format: SourceFormat, what: str) -> ImageRejected:
    return ImageRejected(
        "image_unreadable",
        f"The {source_format} file {what}; a complete PNG, JPEG or WebP file with one frame is allowed.",
    )
