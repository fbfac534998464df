"""From latents to pictures: decoded in chunks, looked at, and decoded once more in float32 where that may help."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import structlog
from PIL.Image import Image

from common.domain.errors import JobFailure
from worker.engine.pictures import finite_rows, is_black, to_pictures
from worker.engine.port import DeviceLost, Prepared
from worker.failures import is_device_lost, is_out_of_memory
from worker.memory import release_memory
from worker.pipelines.family import Family, Parts

if TYPE_CHECKING:
    import torch

# Eight pictures of 512 x 512, two of 1024 x 1024: more at once is no faster and takes memory from the rows.
CHUNK_PIXELS = 8 * 512 * 512
NO_MEMORY = "the device has too little memory for this size, also for one image alone"

_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Made:
    """What a call made of one frame: a picture, latents, or both, as the frame needs."""

    picture: Image | None
    latents: "torch.Tensor | None"


Outcome = Made | JobFailure


@dataclass(frozen=True, slots=True)
class Decoder:
    """Turns what denoising leaves into outcomes, with the autoencoder of one loaded model."""

    family: Family
    parts: Parts

    def outcomes(self, frames: Sequence[Prepared], latents: Sequence["torch.Tensor"]) -> list[Outcome]:
        """What was made, or `JobFailure` (`invalid_output`), per frame of one size; `latents` are (1, 4, …) each.

        One frame alone is decoded as diffusers decodes it, to the byte.
        """
        pixels: list[torch.Tensor | None] = [None] * len(frames)
        wanted = [number for number, frame in enumerate(frames) if frame.needs_pixels]
        for chunk in _chunks(wanted, frames):
            for number, row in zip(chunk, self._decode([latents[number] for number in chunk]), strict=True):
                pixels[number] = row
        return [self._outcome(*one) for one in zip(frames, latents, pixels, strict=True)]

    def outcomes_or_errors(
        self, frames: Sequence[Prepared], latents: Sequence["torch.Tensor"]
    ) -> list[Outcome | Exception]:
        """As `outcomes`; what fails is decoded again by halves, and what does not fit even alone, saving memory.

        The exception that remains stands in its frame's place. Raises `DeviceLost`.
        """
        try:
            return list(self.outcomes(frames, latents))
        except Exception as error:  # the edge of one decoding; who fails for it is found below
            _log.warning("engine.decoding_failed", frames=len(frames), exc_info=error)
            failure = error.with_traceback(None)
        if is_device_lost(failure):
            raise DeviceLost(str(failure)) from failure
        if is_out_of_memory(failure):
            release_memory()
            if len(frames) == 1:
                return [self._outcome_saving_memory(frames, latents)]
        if len(frames) == 1:
            return [failure]
        half = (len(frames) + 1) // 2
        return [
            *self.outcomes_or_errors(frames[:half], latents[:half]),
            *self.outcomes_or_errors(frames[half:], latents[half:]),
        ]

    def _outcome_saving_memory(
        self, frames: Sequence[Prepared], latents: Sequence["torch.Tensor"]
    ) -> Outcome | Exception:
        try:
            with self.saving_memory():
                return self.outcomes(frames, latents)[0]
        except Exception as error:  # the edge of one frame
            if not is_out_of_memory(error):
                return error
        release_memory()
        return JobFailure(NO_MEMORY, code="out_of_memory")

    @contextmanager
    def saving_memory(self) -> Iterator[None]:
        """Decode in slices and tiles within: less memory, slightly other pixels where tiles meet."""
        vae = self.family.autoencoder(self.parts)
        if not hasattr(vae, "enable_tiling"):  # Kandinsky's has neither
            yield
            return
        vae.enable_slicing()
        vae.enable_tiling()
        try:
            yield
        finally:
            vae.disable_slicing()
            vae.disable_tiling()

    def _decode(self, latents: Sequence["torch.Tensor"]) -> tuple["torch.Tensor", ...]:
        import torch

        rows = latents[0] if len(latents) == 1 else torch.cat(list(latents))
        with torch.no_grad():
            return torch.split(self.family.decode(self.parts, rows), 1)

    def _outcome(self, frame: Prepared, latents: "torch.Tensor", pixels: "torch.Tensor | None") -> Outcome:
        handed = latents[0] if frame.hands_on == "latents" else None
        if handed is not None and not all(finite_rows(latents)):
            return JobFailure("the model produced no valid picture", code="invalid_output")
        if pixels is None:
            return Made(None, handed)
        picture = to_pictures(pixels)[0] if all(finite_rows(pixels)) else None
        if picture is None or _is_lost(picture, frame):
            picture = self._decode_in_full(latents)
        if picture is None or _is_lost(picture, frame):
            return JobFailure("the model produced no valid picture", code="invalid_output")
        return Made(picture, handed)

    def _decode_in_full(self, latents: "torch.Tensor") -> Image | None:
        """The picture decoded once more in float32; None when that cannot help or does not."""
        import torch

        vae = self.family.autoencoder(self.parts)
        if vae.dtype == torch.float32 or not all(finite_rows(latents)):
            return None
        with in_float32(vae):
            (pixels,) = self._decode([latents])
        return to_pictures(pixels)[0] if all(finite_rows(pixels)) else None


@contextmanager
def in_float32(vae: Any) -> Iterator[None]:
    """The model computes in float32 within, and in its own number format again afterwards."""
    import torch

    dtype = vae.dtype
    vae.to(torch.float32)
    try:
        yield
    finally:
        vae.to(dtype)


def _chunks(numbers: Sequence[int], frames: Sequence[Prepared]) -> Iterator[Sequence[int]]:
    if not numbers:
        return
    params = frames[0].params
    size = max(1, CHUNK_PIXELS // (params.width * params.height))
    for start in range(0, len(numbers), size):
        yield numbers[start : start + size]


def _is_lost(picture: Image, frame: Prepared) -> bool:
    """Black out of black is a fair answer, and out of latents it may be; black out of anything else is not."""
    may_be = frame.latents is not None or (frame.image is not None and is_black(frame.image))
    return is_black(picture) and not may_be
