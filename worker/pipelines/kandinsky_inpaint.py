"""Kandinsky 2.2 decoders trained to inpaint: nine input channels, which do nothing else."""

from collections.abc import Sequence
from hashlib import blake2b
from typing import Any

from worker.pipelines import kandinsky
from worker.pipelines.family import Frame, Parts
from worker.pipelines.kandinsky import LATENT_RGB, LOADING, autoencoder, decode, pipeline, warnings

__all__ = [
    "LATENT_RGB",
    "LOADING",
    "NAME",
    "arguments",
    "autoencoder",
    "decode",
    "loader",
    "pipeline",
    "shape_key",
    "warnings",
]

NAME = "kandinsky_inpaint"


def loader() -> Any:
    """The class that loads the decoder's parts."""
    from diffusers import KandinskyV22InpaintPipeline

    return KandinskyV22InpaintPipeline


def shape_key(parts: Parts, frame: Frame) -> str:
    """A digest of picture and mask: diffusers puts the first frame's back into all, so frames must share them."""
    digest = blake2b(digest_size=16)
    for picture in (frame.image, frame.mask):
        digest.update(picture.tobytes() if picture is not None else b"")
    return digest.hexdigest()


def arguments(parts: Parts, frames: Sequence[Frame]) -> dict[str, Any]:
    """As of `kandinsky`; this checkpoint paints from pure noise, so there is no strength and all steps run."""
    given = {**kandinsky.arguments(parts, frames), "num_inference_steps": frames[0].params.num_inference_steps}
    given.pop("strength", None)
    return given
