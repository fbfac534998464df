"""Which size runs: from wishes, the input's size and the model's native area."""

from dataclasses import dataclass
from math import sqrt

MIN_SIDE = 64
MAX_SIDE = 2048
SIZE_STEP = 8

Size = tuple[int, int]


@dataclass(frozen=True, slots=True)
class SizeWish:
    """The sides that were asked for, and whether the picture's own ratio must be kept (`resize` `fit`)."""

    width: int | None = None
    height: int | None = None
    keeps_ratio: bool = True

    @property
    def is_exact(self) -> bool:
        """True when both sides run as they are."""
        return self.width is not None and self.height is not None and not self.keeps_ratio


def settle_size(wish: SizeWish, *, input_size: Size | None, native_size: int, step: int = SIZE_STEP) -> Size:
    """The (width, height) that will run: multiples of `step`, 64-2048.

    Without an input, missing sides are native. With one, its ratio is kept: fitted to the native area, to the one
    side that is given, or inside the box of both; a wish that is exact runs as it is.
    """
    if input_size is None or wish.is_exact:
        return _snap(wish.width or native_size, step), _snap(wish.height or native_size, step)
    scale = _scale(wish, input_size, native_size)
    return _snap(input_size[0] * scale, step), _snap(input_size[1] * scale, step)


def _scale(wish: SizeWish, input_size: Size, native_size: int) -> float:
    bounds = [side / own for side, own in zip((wish.width, wish.height), input_size, strict=True) if side is not None]
    return min(bounds) if bounds else sqrt(native_size**2 / (input_size[0] * input_size[1]))


def _snap(side: float, step: int) -> int:
    return min(MAX_SIDE // step * step, max(-(-MIN_SIDE // step) * step, round(side / step) * step))
