"""Masks as the worker uses them: mode L, 255 where the model repaints, 0 where the picture stays."""

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageChops, ImageFilter

from common.domain.params import MaskMode

Box = tuple[int, int, int, int]
Size = tuple[int, int]


def read_mask(mask: Image.Image | None, image: Image.Image, mode: MaskMode) -> Image.Image:
    """What is to be repainted, from canonical pictures (RGB or RGBA), at the size of `mask`, or else of `image`.

    `white_repaints` and `black_repaints` go by luminance, and transparent parts of the mask keep the picture. `alpha`
    repaints what is transparent in the mask, or without one in the image; nothing if all is opaque. Raises ValueError
    when there is no mask and `mode` is not `alpha`.
    """
    if mode == "alpha":
        return _holes(mask or image)
    if mask is None:
        raise ValueError(f"mask_mode {mode} needs a mask")
    if mode == "white_repaints":
        return _laid_on(mask, "black").convert("L")
    return ImageChops.invert(_laid_on(mask, "white").convert("L"))


def grow(mask: Image.Image, pixels: int) -> Image.Image:
    """The mask with every pixel spread over the square that reaches `pixels` to each side; 0 gives it back as it is."""
    if pixels == 0:
        return mask
    tall = _spread_down(np.asarray(mask), pixels)
    return Image.fromarray(np.ascontiguousarray(_spread_down(tall.T, pixels).T))


def soften(mask: Image.Image, pixels: int) -> Image.Image:
    """The mask under a Gaussian blur of radius `pixels`; 0 gives it back as it is."""
    return mask if pixels == 0 else mask.filter(ImageFilter.GaussianBlur(pixels))


def region_of(mask: Image.Image, padding: int, size: Size) -> Box:
    """(left, top, right, bottom) of what is above 0 with `padding` pixels around, inside the picture.

    It is widened to the aspect ratio of `size` as far as the picture reaches, and shifted inward where it would leave
    it. A mask of nothing gives the whole picture.
    """
    found = mask.getbbox()
    if found is None:
        return (0, 0, *mask.size)
    left, right = max(0, found[0] - padding), min(mask.width, found[2] + padding)
    top, bottom = max(0, found[1] - padding), min(mask.height, found[3] + padding)
    ratio = size[0] / size[1]
    width = max(right - left, round((bottom - top) * ratio))
    height = max(bottom - top, round((right - left) / ratio))
    left, right = _widened(left, right, min(width, mask.width), mask.width)
    top, bottom = _widened(top, bottom, min(height, mask.height), mask.height)
    return (left, top, right, bottom)


def _widened(start: int, end: int, length: int, limit: int) -> tuple[int, int]:
    """The stretch from `start` to `end` at `length`, about its middle, shifted into 0 … `limit`."""
    begin = min(max(0, start - (length - (end - start)) // 2), limit - length)
    return begin, begin + length


def _holes(picture: Image.Image) -> Image.Image:
    if picture.mode != "RGBA":
        return Image.new("L", picture.size)
    return ImageChops.invert(picture.getchannel("A"))


def _laid_on(picture: Image.Image, colour: str) -> Image.Image:
    if picture.mode != "RGBA":
        return picture
    ground = Image.new("RGB", picture.size, colour)
    ground.paste(picture.convert("RGB"), mask=picture.getchannel("A"))
    return ground


def _spread_down(pixels: NDArray[np.uint8], radius: int) -> NDArray[np.uint8]:
    """The maximum over `radius` rows to each side. The window doubles until it is whole: log2 passes, not `radius`."""
    window, whole = 1, 2 * radius + 1
    spread = np.pad(pixels, ((radius, radius), (0, 0)))
    while window < whole:
        shift = min(window, whole - window)
        spread = np.maximum(spread[:-shift], spread[shift:])
        window += shift
    return spread
