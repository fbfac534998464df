"""Stable Diffusion XL: txt2img, img2img and inpaint from one set of parts."""

from collections.abc import Mapping
from typing import Any

from worker.pipelines.xl import LATENT_RGB, arguments, autoencoder, decode, pipeline, shape_key, warnings

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

NAME = "sdxl"
LOADING: Mapping[str, Any] = {"add_watermarker": False}


def loader() -> Any:
    """The class that loads the parts, whichever task then uses them."""
    from diffusers import StableDiffusionXLPipeline

    return StableDiffusionXLPipeline
