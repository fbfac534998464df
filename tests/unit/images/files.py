"""Image files for tests, where need be written by hand, byte by byte."""

import struct
import zlib
from io import BytesIO
from typing import Any, Final

from PIL import Image

PNG_SIGNATURE: Final = b"\x89PNG\r\n\x1a\n"
# PNG colour types (PNG, section 11.2.1).
GREY, RGB, PALETTE, GREY_ALPHA, RGB_ALPHA = 0, 2, 3, 4, 6


def saved(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    """`image` as a file, written by Pillow."""
    buffer = BytesIO()
    image.save(buffer, format=kind, **options)
    return buffer.getvalue()


def chunk(name: bytes, content: bytes) -> bytes:
    """One PNG chunk."""
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def png(width: int, height: int, *, depth: int, colour: int, rows: bytes, before: bytes = b"") -> bytes:
    """A PNG of raw samples: `rows` is what follows the filter byte of each row, repeated for every row.

    `before` are chunks between the header and the pixels.
    """
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    pixels = zlib.compress((b"\0" + rows) * height)
    return PNG_SIGNATURE + chunk(b"IHDR", header) + before + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def bomb(width: int, height: int) -> bytes:
    """A PNG of some 100 bytes that says it has this many pixels."""
    header = struct.pack(">IIBBBBB", width, height, 8, RGB, 0, 0, 0)
    return PNG_SIGNATURE + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 1000)) + chunk(b"IEND", b"")


def corners(width: int = 48, height: int = 32) -> Image.Image:
    """Four quarters: red and green above, blue and white below."""
    image = Image.new("RGB", (width, height), "white")
    half = (width // 2, height // 2)
    image.paste("red", (0, 0, *half))
    image.paste("green", (half[0], 0, width, half[1]))
    image.paste("blue", (0, half[1], half[0], height))
    return image
