"""The refiner of SDXL: img2img and inpaint, with one text encoder; it finishes what a base model has begun."""

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

NAME = "sdxl_refiner"
LOADING: Mapping[str, Any] = {"add_watermarker": False}


def loader() -> Any:
    """The class that loads the parts, whichever task then uses them."""
    from diffusers import StableDiffusionXLImg2ImgPipeline

    return StableDiffusionXLImg2ImgPipeline
