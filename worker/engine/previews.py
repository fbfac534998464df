"""What a picture looks like so far: latents to RGB by one small matrix, without the decoder."""

import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from PIL import Image

from worker.engine.port import Prepared, Previewed

if TYPE_CHECKING:
    import torch

INTERVAL_SECONDS = 0.5


class Previewer:
    """Makes previews of the first image of each job that wants them, at most twice a second over all of a call."""

    def __init__(
        self, latent_rgb: Sequence[Sequence[float]] | None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._latent_rgb = latent_rgb
        self._clock = clock
        self._next_at = 0.0

    def look(self, frames: Sequence[Prepared], latents: "torch.Tensor") -> list[Previewed]:
        """Previews of these frames, whose latents are (frames, 4, height / 8, width / 8); none when it is too soon."""
        if self._latent_rgb is None or self._clock() < self._next_at:
            return []
        chosen = [number for number, frame in enumerate(frames) if frame.job.params.previews and frame.ref.index == 0]
        if chosen:
            self._next_at = self._clock() + INTERVAL_SECONDS
        return [Previewed(frames[number].ref, rough_picture(latents[number], self._latent_rgb)) for number in chosen]


def rough_picture(latents: "torch.Tensor", latent_rgb: Sequence[Sequence[float]]) -> Image.Image:
    """An RGB picture of one pixel per latent pixel; `latents` is (4, height, width)."""
    import torch

    matrix = torch.tensor(latent_rgb)
    values = latents.detach().float().cpu().permute(1, 2, 0) @ matrix
    pixels = ((values / 2 + 0.5).nan_to_num(0.0).clamp(0, 1) * 255).round().to(torch.uint8)
    return Image.fromarray(pixels.numpy())
