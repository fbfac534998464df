"""Tiny checkpoints of Stable Diffusion 1.5, 2.1 and 1.5 inpainting."""

from pathlib import Path
from typing import Any

from tests.tiny_models import parts


def save_stable_diffusion(
    folder: Path, *, scheduler: str = "DDIMScheduler", seed: int = 0, in_channels: int = 4
) -> Path:
    """Save a tiny checkpoint in the Stable Diffusion 1.5 layout; the folder again."""
    import torch
    from diffusers import StableDiffusionPipeline

    torch.manual_seed(seed)
    tokens = parts.tokenizer()
    return _save(
        StableDiffusionPipeline,
        folder,
        tokenizer=tokens,
        vae=parts.vae(),
        text_encoder=parts.text_encoder(tokens),
        unet=parts.unet(in_channels=in_channels),
        scheduler=parts.scheduler(scheduler),
    )


def save_stable_diffusion_2(folder: Path, *, seed: int = 0) -> Path:
    """Save a tiny checkpoint in the Stable Diffusion 2.1 layout: other activations, projections and padding."""
    import torch
    from diffusers import StableDiffusionPipeline

    torch.manual_seed(seed)
    tokens = parts.tokenizer(pad="!")
    return _save(
        StableDiffusionPipeline,
        folder,
        tokenizer=tokens,
        vae=parts.vae(),
        text_encoder=parts.text_encoder(tokens, hidden_act="gelu"),
        unet=parts.unet(use_linear_projection=True),
        scheduler=parts.scheduler("DDIMScheduler"),
    )


def save_stable_diffusion_inpaint(folder: Path, *, seed: int = 0) -> Path:
    """Save a tiny checkpoint in the layout of Stable Diffusion inpainting, with nine input channels."""
    import torch
    from diffusers import StableDiffusionInpaintPipeline

    torch.manual_seed(seed)
    tokens = parts.tokenizer()
    return _save(
        StableDiffusionInpaintPipeline,
        folder,
        tokenizer=tokens,
        vae=parts.vae(),
        text_encoder=parts.text_encoder(tokens),
        unet=parts.unet(in_channels=9),
        scheduler=parts.scheduler("DDIMScheduler"),
    )


def _save(kind: Any, folder: Path, **members: Any) -> Path:
    unchecked = {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
    kind(**members, **unchecked).save_pretrained(folder)
    return folder
