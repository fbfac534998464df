"""One diffusers call over frames that share a call key: latents first, then pixels."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from PIL.Image import Image

from common.domain.errors import JobFailure
from worker.engine.pictures import finite_rows, is_black, to_pictures
from worker.engine.port import Prepared
from worker.pipelines.family import Family, Parts

if TYPE_CHECKING:
    import torch

OnStep = Callable[[int, int], None]
Outcome = Image | JobFailure


@dataclass(frozen=True, slots=True)
class DiffusersCall:
    """How frames run on a loaded model. Holds no state of a run: every call makes its own pipeline object."""

    family: Family
    parts: Parts

    def run(self, frames: Sequence[Prepared], on_step: OnStep) -> list[Outcome]:
        """A picture, or `JobFailure` (`invalid_output`), per frame. For one frame it is the plain call's to the byte.

        `on_step(done, total)` is called after each denoising step; what it raises ends the call and comes through.
        """
        import torch

        latents = self._denoise(frames, on_step)
        with torch.no_grad():
            pixels = self.family.decode(self.parts, latents)
            return [self._outcome(*row) for row in zip(frames, latents, pixels, finite_rows(pixels), strict=True)]

    @contextmanager
    def saving_memory(self) -> Iterator[None]:
        """Decode in slices and tiles within: less memory, slightly other pixels where tiles meet."""
        vae = self.family.autoencoder(self.parts)
        vae.enable_slicing()
        vae.enable_tiling()
        try:
            yield
        finally:
            vae.disable_slicing()
            vae.disable_tiling()

    def _denoise(self, frames: Sequence[Prepared], on_step: OnStep) -> "torch.Tensor":
        pipeline = self.family.pipeline(self.parts, frames[0].job.params.task)

        def on_step_end(caller: Any, step: int, _timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
            on_step(step + 1, caller.num_timesteps)
            return tensors

        latents: torch.Tensor = pipeline(
            **self.family.arguments(frames), output_type="latent", callback_on_step_end=on_step_end
        ).images
        return latents

    def _outcome(self, frame: Prepared, latents: "torch.Tensor", pixels: "torch.Tensor", is_finite: bool) -> Outcome:
        picture = to_pictures(pixels[None])[0] if is_finite else None
        if picture is None or _is_lost(picture, frame):
            picture = self._decode_in_full(latents)
        if picture is None or _is_lost(picture, frame):
            return JobFailure("the model produced no valid picture", code="invalid_output")
        return picture

    def _decode_in_full(self, latents: "torch.Tensor") -> Image | None:
        """The picture decoded once more in float32; None when that cannot help or does not."""
        import torch

        vae = self.family.autoencoder(self.parts)
        if vae.dtype == torch.float32 or not all(finite_rows(latents[None])):
            return None
        with _in_float32(vae):
            pixels = self.family.decode(self.parts, latents[None])
        return to_pictures(pixels)[0] if all(finite_rows(pixels)) else None


@contextmanager
def _in_float32(vae: Any) -> Iterator[None]:
    import torch

    dtype = vae.dtype
    vae.to(torch.float32)
    try:
        yield
    finally:
        vae.to(dtype)


def _is_lost(picture: Image, frame: Prepared) -> bool:
    """Black out of black is a fair answer; black out of anything else is not."""
    return is_black(picture) and not (frame.image is not None and is_black(frame.image))
