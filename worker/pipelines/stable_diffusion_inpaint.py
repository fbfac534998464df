"""Stable Diffusion checkpoints trained to inpaint: nine input channels, which do nothing else."""

from worker.pipelines.stable_diffusion import (
    LATENT_RGB,
    LOADING,
    arguments,
    autoencoder,
    decode,
    pipeline,
    shape_key,
    warnings,
)

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

NAME = "stable_diffusion_inpaint"


def loader() -> type:
    """The class that loads the parts."""
    from diffusers import StableDiffusionInpaintPipeline

    loads: type = StableDiffusionInpaintPipeline
    return loads
