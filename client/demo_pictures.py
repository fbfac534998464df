"""The pictures of `darkroom demo`: a drawn shape, a rendered scene, and the sheet that shows what became of them."""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from typing import Final

from PIL import Image, ImageChops, ImageDraw, ImageFilter, ImageOps

from common.images.grid import side_by_side

_SHAPE_SIDE: Final = 128
_SCENE_SIZE: Final = (384, 256)
_ENLARGED: Final = 3
_MARGIN: Final = 24
_SMOOTH: Final = Image.Resampling.LANCZOS
_FRAME: Final = "#cccccc"
_GRAIN_SEED: Final = 7


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


def render_scene() -> Image.Image:
    """A computed evening landscape, 384 x 256, with the soft tones and the grain of a photograph. It is none."""
    width, height = _SCENE_SIZE
    scene = Image.composite(
        Image.new("RGB", _SCENE_SIZE, (255, 190, 120)),
        Image.new("RGB", _SCENE_SIZE, (70, 110, 170)),
        Image.linear_gradient("L").resize(_SCENE_SIZE),
    )
    glow = Image.new("L", _SCENE_SIZE)
    ImageDraw.Draw(glow).ellipse((250, 90, 310, 150), fill=255)
    scene.paste((255, 240, 205), mask=glow.filter(ImageFilter.GaussianBlur(6)))
    for level, (top, shade) in enumerate([(150, (110, 100, 120)), (180, (70, 75, 85)), (212, (35, 45, 40))]):
        ridge = Image.new("L", _SCENE_SIZE)
        points = [(x, top + _ridge(x, level)) for x in range(0, width + 1, 4)]
        ImageDraw.Draw(ridge).polygon([*points, (width, height), (0, height)], fill=255)
        scene.paste(shade, mask=ridge.filter(ImageFilter.GaussianBlur(2 - level * 0.6)))
    grain = Image.frombytes("L", _SCENE_SIZE, random.Random(_GRAIN_SEED).randbytes(width * height))  # noqa: S311
    softened = grain.filter(ImageFilter.GaussianBlur(0.6)).point(lambda level: 128 + (level - 128) // 8)
    return ImageChops.add(scene, softened.convert("RGB"), scale=1, offset=-128)


def jpeg(image: Image.Image) -> bytes:
    """The picture as a camera would hand it over."""
    buffer = BytesIO()
    image.save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


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


def _ridge(x: int, level: int) -> int:
    """A jagged line that is the same every time: three triangle waves of unlike lengths."""
    waves = ((97 - 20 * level, 22), (41, 10), (13, 3))
    return sum(round(abs((x + 31 * level) % length / length * 2 - 1) * rise) for length, rise in waves) - 18
