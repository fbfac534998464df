"""Whether two programs did the same work: rows that went through a model, and how far their pictures are apart."""

import math
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from PIL import Image, ImageChops, ImageStat

LEAST_DB = 35.0


class RowCounter:
    """Forward passes of a model by their rows."""

    def __init__(self) -> None:
        self.passes: Counter[int] = Counter()

    @property
    def rows(self) -> int:
        """The rows of all passes together."""
        return sum(rows * count for rows, count in self.passes.items())

    @contextmanager
    def watching(self, model: Any) -> Iterator["RowCounter"]:
        """Count within, from zero."""
        self.passes.clear()
        hook = model.register_forward_pre_hook(self._note, with_kwargs=True)
        try:
            yield self
        finally:
            hook.remove()

    def _note(self, _model: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        self.passes[len(args[0] if args else kwargs["sample"])] += 1


def psnr(one: Image.Image, other: Image.Image) -> float:
    """Peak signal-to-noise ratio of two RGB pictures in dB; infinite when they are equal."""
    squares = ImageStat.Stat(ImageChops.difference(one, other)).sum2
    mean = sum(squares) / (3 * one.width * one.height)
    return 10 * math.log10(255**2 / mean) if mean else math.inf


def largest_difference(one: Image.Image, other: Image.Image) -> int:
    """The largest difference of any channel of any pixel, of 255."""
    return max(int(high) for _, high in ImageStat.Stat(ImageChops.difference(one, other)).extrema)


def compare(
    pictures: Mapping[int, Image.Image], oracle: Mapping[int, Image.Image], *, least_db: float = LEAST_DB
) -> dict[str, Any]:
    """How far pictures are from those of another program. Raises RuntimeError when one is missing or farther."""
    if set(pictures) != set(oracle):
        raise RuntimeError(f"{len(pictures)} pictures instead of {len(oracle)}")
    nearness = [psnr(pictures[number], oracle[number]) for number in oracle]
    if min(nearness) < least_db:
        raise RuntimeError(f"a picture is only {min(nearness):.1f} dB from that of the loop")
    finite = [one for one in nearness if one < math.inf]
    return {
        "equal_pictures": len(nearness) - len(finite),
        "pictures": len(nearness),
        "least_psnr_db": round(min(finite), 1) if finite else None,
        "largest_difference_of_255": max(largest_difference(pictures[one], oracle[one]) for one in oracle),
    }
