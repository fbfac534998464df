"""Pictures side by side, for the `grid` output and for before-and-after sheets. The same pictures, the same pixels."""

from collections.abc import Sequence
from typing import Final, Literal

from PIL import Image, ImageDraw, ImageFont

Resampling = Literal["nearest", "lanczos"]

_FILTERS: Final = {"nearest": Image.Resampling.NEAREST, "lanczos": Image.Resampling.LANCZOS}
_CAPTION_SIZE: Final = 16
_LINE_SPACING: Final = 4
# WebP's limit for a side; a JPEG's is 65,535.
MAX_SHEET_WIDTH: Final = 16_383
_INK: Final = "black"
_PAPER: Final = "white"


def side_by_side(
    images: Sequence[Image.Image],
    *,
    gap: int = 16,
    scale: int = 1,
    resampling: Resampling = "lanczos",
    captions: Sequence[str] | None = None,
) -> Image.Image:
    """One RGB picture of all `images` from left to right, tops aligned, on white.

    Each is enlarged `scale` times; `gap` pixels lie between neighbours. With `captions`, one per image, the text
    stands below its picture, `gap` pixels under the tallest, broken into lines at the picture's width. Raises
    ValueError without images, for a scale below 1, a negative gap, or another number of captions than images.
    """
    if not images or scale < 1 or gap < 0:
        raise ValueError("at least one image, a scale of at least 1 and a gap of at least 0 are needed")
    if captions is not None and len(captions) != len(images):
        raise ValueError(f"{len(captions)} captions for {len(images)} images")
    tiles = [_enlarge(image.convert("RGB"), scale, resampling) for image in images]
    texts = [_wrap(text, tile.width) for text, tile in zip(captions or (), tiles, strict=False)]
    picture_height = max(tile.height for tile in tiles)
    caption_height = gap + max(map(_text_height, texts)) if texts else 0
    width = sum(tile.width for tile in tiles) + gap * (len(tiles) - 1)
    sheet = Image.new("RGB", (width, picture_height + caption_height), _PAPER)
    pen = ImageDraw.Draw(sheet)
    left = 0
    for index, tile in enumerate(tiles):
        sheet.paste(tile, (left, 0))
        if texts:
            pen.multiline_text(
                (left, picture_height + gap), texts[index], fill=_INK, font=_font(), spacing=_LINE_SPACING
            )
        left += tile.width + gap
    return sheet


def before_and_after(source: Image.Image, results: Sequence[Image.Image], *, gap: int = 16) -> Image.Image:
    """The input and its results from left to right, the input scaled to the height of the tallest result.

    Results keep their sizes, unless the sheet would be wider than WebP allows (16,383 pixels): then all are scaled down
    alike. Raises ValueError without results.
    """
    if not results:
        raise ValueError("at least one result is needed")
    height = max(one.height for one in results)
    width = max(1, round(source.width * height / source.height))
    pictures = [source.convert("RGB").resize((width, height), _FILTERS["lanczos"]), *results]
    gaps = gap * len(results)
    full = sum(one.width for one in pictures)
    if full + gaps > MAX_SHEET_WIDTH:
        pictures = [_shrink(one, (MAX_SHEET_WIDTH - gaps) / full) for one in pictures]
    return side_by_side(pictures, gap=gap)


def _shrink(image: Image.Image, share: float) -> Image.Image:
    size = (max(1, int(image.width * share)), max(1, int(image.height * share)))
    return image.resize(size, _FILTERS["lanczos"])


def _enlarge(image: Image.Image, scale: int, resampling: Resampling) -> Image.Image:
    if scale == 1:
        return image
    return image.resize((image.width * scale, image.height * scale), _FILTERS[resampling])


def _wrap(text: str, width: int) -> str:
    """`text` broken between words so that no line is wider than `width` pixels, unless one word is."""
    lines: list[str] = []
    for word in text.split():
        longer = f"{lines[-1]} {word}" if lines else word
        if lines and _font().getlength(longer) <= width:
            lines[-1] = longer
        else:
            lines.append(word)
    return "\n".join(lines)


def _text_height(text: str) -> int:
    pen = ImageDraw.Draw(Image.new("RGB", (1, 1)))
    return round(pen.multiline_textbbox((0, 0), text, font=_font(), spacing=_LINE_SPACING)[3]) + _LINE_SPACING


def _font() -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(_CAPTION_SIZE)
