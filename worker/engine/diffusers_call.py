"""One diffusers call over frames that share a call key: latents first, then pixels."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from PIL.Image import Image

from common.domain.errors import JobFailure
from worker.engine.adapters import AdapterRack
from worker.engine.pictures import finite_rows, is_black, to_pictures
from worker.engine.port import Prepared
from worker.pipelines.family import Family, Parts

if TYPE_CHECKING:
    import torch

OnStep = Callable[[int, int, "torch.Tensor"], None]


@dataclass(frozen=True, slots=True)
class Made:
    """What a call made of one frame: a picture, latents on the CPU, or both, as the frame needs."""

    picture: Image | None
    latents: "torch.Tensor | None"


Outcome = Made | JobFailure


@dataclass(frozen=True, slots=True)
class DiffusersCall:
    """How frames run on a loaded model. Holds no state of a run: every call makes its own pipeline object."""

    family: Family
    parts: Parts
    adapters: AdapterRack

    def run(self, frames: Sequence[Prepared], on_step: OnStep) -> list[Outcome]:
        """What was made, or `JobFailure` (`invalid_output`), per frame; for one frame the plain call's to the byte.

        `on_step(done, total, latents)` is called after each denoising step; what it raises ends the call and comes
        through.
        """
        import torch

        latents = self._denoise(frames, on_step)
        with torch.no_grad():
            pixels = iter(self._decode(frames, latents))
            return [
                self._outcome(frame, own, next(pixels) if frame.needs_pixels else None)
                for frame, own in zip(frames, latents, strict=True)
            ]

    def shape_key(self, frame: Prepared) -> str:
        """What frames of one call must share beyond their call key."""
        start = "latents" if frame.latents is not None else "pixels"
        return f"{start} {self.family.shape_key(self.parts, frame)}"

    def warnings(self, frame: Prepared) -> list[dict[str, str]]:
        """What the model does otherwise than asked."""
        return self.family.warnings(self.parts, frame)

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

    def _denoise(self, frames: Sequence[Prepared], on_step: OnStep) -> "torch.Tensor":
        import torch

        params = frames[0].params
        pipeline = self.family.pipeline(self.parts, params.task, params.scheduler)
        self.adapters.hold(pipeline, params.adapters)
        has_run = False

        def on_step_end(caller: Any, step: int, _timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
            nonlocal has_run
            has_run = True
            on_step(step + 1, caller.num_timesteps, tensors["latents"])
            return tensors

        with torch.no_grad():
            arguments = self.family.arguments(self.parts, frames)
        latents: torch.Tensor = pipeline(**arguments, output_type="latent", callback_on_step_end=on_step_end).images
        if not has_run:
            raise JobFailure("the scheduler leaves this pass no step to run; choose another cut", code="infeasible")
        return latents

    def _decode(self, frames: Sequence[Prepared], latents: "torch.Tensor") -> Sequence["torch.Tensor"]:
        """The pixels of the frames that need any, in their order."""
        wanted = [number for number, frame in enumerate(frames) if frame.needs_pixels]
        if not wanted:
            return ()
        chosen = latents if len(wanted) == len(frames) else latents[wanted]
        return tuple(self.family.decode(self.parts, chosen).unbind())

    def _outcome(self, frame: Prepared, latents: "torch.Tensor", pixels: "torch.Tensor | None") -> Outcome:
        handed = latents.cpu() if frame.hands_on == "latents" else None
        if handed is not None and not all(finite_rows(latents[None])):
            return JobFailure("the model produced no valid picture", code="invalid_output")
        if pixels is None:
            return Made(None, handed)
        picture = to_pictures(pixels[None])[0] if all(finite_rows(pixels[None])) else None
        if picture is None or _is_lost(picture, frame):
            picture = self._decode_in_full(latents)
        if picture is None or _is_lost(picture, frame):
            return JobFailure("the model produced no valid picture", code="invalid_output")
        return Made(picture, handed)

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
    """Black out of black is a fair answer, and out of latents it may be; black out of anything else is not."""
    may_be = frame.latents is not None or (frame.image is not None and is_black(frame.image))
    return is_black(picture) and not may_be
