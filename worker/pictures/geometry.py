"""How a picture and its mask come to the size that runs. Sizes are (width, height) in pixels."""

from collections.abc import Callable

from PIL import Image

from common.domain.params import Resize

Size = tuple[int, int]

_HALF = 128
_BINARISED = [0] * _HALF + [255] * (256 - _HALF)


def prepare_picture(picture: Image.Image, size: Size, resize: Resize) -> Image.Image:
    """An RGB picture at exactly `size`; one that has it already is returned as it is.

    `fit` and `stretch` scale both sides (for `fit`, `size` was chosen to keep the ratio), `fill` covers and crops what
    stands over at both ends, `pad` shows the whole between black bars.
    """
    return _fitted(picture, size, resize, Image.Resampling.LANCZOS)


def prepare_mask(mask: Image.Image, source_size: Size, size: Size, resize: Resize) -> Image.Image:
    """A mask of mode L at exactly `size`, of 0 and 255 only, lying on the picture as it did at `source_size`.

    A mask of another size than its picture is stretched to it first. From 128 on it repaints; the bars of `pad` never.
    """
    lying = _scaled(mask, source_size, Image.Resampling.BILINEAR)
    return _fitted(lying, size, resize, Image.Resampling.BILINEAR).point(_BINARISED)


def _fitted(picture: Image.Image, size: Size, resize: Resize, resampling: Image.Resampling) -> Image.Image:
    return _MOVES[resize](picture, size, resampling)


def _scaled(picture: Image.Image, size: Size, resampling: Image.Resampling) -> Image.Image:
    return picture if picture.size == size else picture.resize(size, resampling)


def _filled(picture: Image.Image, size: Size, resampling: Image.Resampling) -> Image.Image:
    if picture.size == size:
        return picture
    scale = max(side / own for side, own in zip(size, picture.size, strict=True))
    left, top = (max(0.0, (own - side / scale) / 2) for side, own in zip(size, picture.size, strict=True))
    return picture.resize(size, resampling, box=(left, top, picture.width - left, picture.height - top))


def _padded(picture: Image.Image, size: Size, resampling: Image.Resampling) -> Image.Image:
    scale = min(side / own for side, own in zip(size, picture.size, strict=True))
    width, height = (max(1, min(side, round(own * scale))) for side, own in zip(size, picture.size, strict=True))
    inner = _scaled(picture, (width, height), resampling)
    if inner.size == size:
        return inner
    framed = Image.new(picture.mode, size)
    framed.paste(inner, ((size[0] - width) // 2, (size[1] - height) // 2))
    return framed


_MOVES: dict[Resize, Callable[[Image.Image, Size, Image.Resampling], Image.Image]] = {
    "fit": _scaled,
    "stretch": _scaled,
    "fill": _filled,
    "pad": _padded,
}
