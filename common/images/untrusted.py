"""What may come in as an image: the limits, the result of decoding, and the refusal. Standard library only."""

from dataclasses import dataclass
from typing import Final, Literal

SourceFormat = Literal["PNG", "JPEG", "WEBP"]
RejectionCode = Literal["image_unreadable", "image_too_large", "unsupported_media_type"]

SOURCE_FORMATS: Final[tuple[SourceFormat, ...]] = ("PNG", "JPEG", "WEBP")


@dataclass(frozen=True, slots=True)
class ImageLimits:
    """Bounds of an incoming image: bytes of the file, pixels in all, and pixels per side (both ends included)."""

    max_bytes: int = 20 * 1024 * 1024
    max_pixels: int = 16_777_216
    min_side: int = 16
    max_side: int = 8192


@dataclass(frozen=True, slots=True)
class DecodedImage:
    """A clean picture.

    `png` is our own encoding, the canonical form that `common.images.canonical` opens: 8-bit sRGB, upright, with no
    chunk besides the pixels. It is RGBA if any pixel is not opaque (`has_alpha`), else RGB. `width` and `height` are
    its pixels, `sha256` the 64 hexadecimal digits of `png`, `source_format` what the client had sent.
    """

    png: bytes
    width: int
    height: int
    sha256: str
    source_format: SourceFormat
    has_alpha: bool = False


class ImageRejected(Exception):
    """The bytes are not an image that we take. `code` is stable; `detail` is a sentence that says what is allowed."""

    def __init__(self, code: RejectionCode, detail: str) -> None:
        super().__init__(detail)
        self.code: RejectionCode = code
        self.detail = detail


def check_size_in_bytes(size_bytes: int, limits: ImageLimits) -> None:
    """Raise `ImageRejected` (image_too_large) when the file is longer than allowed."""
    if size_bytes > limits.max_bytes:
        raise ImageRejected(
            "image_too_large",
            f"The image file has {size_bytes} bytes; at most {limits.max_bytes} bytes are allowed.",
        )


def check_dimensions(width: int, height: int, limits: ImageLimits) -> None:
    """Raise `ImageRejected` when a picture of `width` x `height` pixels is outside the limits."""
    if max(width, height) > limits.max_side or width * height > limits.max_pixels:
        raise ImageRejected("image_too_large", f"The image is {width}x{height} pixels; {allowed_dimensions(limits)}")
    if min(width, height) < limits.min_side:
        raise ImageRejected(
            "image_unreadable", f"The image is only {width}x{height} pixels; {allowed_dimensions(limits)}"
        )


def allowed_dimensions(limits: ImageLimits) -> str:
    """The second half of a sentence about a picture's size."""
    return (
        f"sides from {limits.min_side} to {limits.max_side} pixels and at most {limits.max_pixels} pixels "
        "in all are allowed."
    )


def sniff_format(data: bytes) -> SourceFormat:
    """The format that the first bytes claim. Raises `ImageRejected` (unsupported_media_type) for any other."""
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return "PNG"
    if data.startswith(b"\xff\xd8\xff"):
        return "JPEG"
    if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        return "WEBP"
    raise ImageRejected(
        "unsupported_media_type",
        "The file is not an image that can be read here; PNG, JPEG and WebP are allowed.",
    )
