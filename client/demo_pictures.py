"""The pictures of `darkroom demo`: a drawn shape, and the sheet that shows what became of each picture."""

from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from typing import Final

from PIL import Image, ImageDraw, ImageOps

from common.images.grid import side_by_side

_SHAPE_SIDE: Final = 128
_ENLARGED: Final = 3
_MARGIN: Final = 24
_SMOOTH: Final = Image.Resampling.LANCZOS
_FRAME: Final = "#cccccc"


@dataclass(frozen=True, slots=True)
class Strip:
    """A row of the sheet: a picture before and after, each with what is true of it."""

    before: Image.Image
    after: Image.Image
    captions: tuple[str, str]


def draw_shape() -> Image.Image:
    """A red circle on white, 128 x 128."""
    side, factor = _SHAPE_SIDE, 4
    large = Image.new("RGB", (side * factor, side * factor), "white")
    inset = side * factor // 4
    ImageDraw.Draw(large).ellipse((inset, inset, large.width - inset, large.height - inset), fill=(220, 30, 30))
    return large.resize((side, side), _SMOOTH)


def png(image: Image.Image) -> bytes:
    """The picture without loss."""
    buffer = BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def compose_sheet(strips: Sequence[Strip]) -> Image.Image:
    """All strips below each other on white, every picture as high as the shape, enlarged."""
    rows = [_row(strip) for strip in strips]
    width = max(row.width for row in rows) + 2 * _MARGIN
    sheet = Image.new("RGB", (width, sum(row.height + _MARGIN for row in rows) + _MARGIN), "white")
    top = _MARGIN
    for row in rows:
        sheet.paste(row, (_MARGIN, top))
        top += row.height + _MARGIN
    return sheet


def _row(strip: Strip) -> Image.Image:
    height = _SHAPE_SIDE * _ENLARGED
    pictures = [
        ImageOps.expand(image.resize((round(image.width * height / image.height), height), _SMOOTH), 1, _FRAME)
        for image in (strip.before, strip.after)
    ]
    return side_by_side(pictures, captions=strip.captions, gap=_MARGIN)
