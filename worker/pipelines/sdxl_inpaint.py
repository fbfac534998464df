"""SDXL checkpoints trained to inpaint: nine input channels, which do nothing else."""

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

NAME = "sdxl_inpaint"
LOADING: Mapping[str, Any] = {"add_watermarker": False}


def loader() -> Any:
    """The class that loads the parts."""
    from diffusers import StableDiffusionXLInpaintPipeline

    return StableDiffusionXLInpaintPipeline
