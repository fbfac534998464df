"""Tiny checkpoints of Stable Diffusion XL, its inpainting kind and its refiner."""

from pathlib import Path
from typing import Any

from tests.tiny_models import parts

_TIME_WIDTH = 8


def save_sdxl(folder: Path, *, seed: int = 0, **of_vae: Any) -> Path:
    """Save a tiny checkpoint in the SDXL base layout, with these values of the VAE changed; the folder again."""
    import torch
    from diffusers import StableDiffusionXLPipeline

    torch.manual_seed(seed)
    return _save(StableDiffusionXLPipeline, folder, _members(4) | {"vae": _vae(**of_vae)}, force_zeros=True)


def save_sdxl_inpaint(folder: Path, *, seed: int = 0) -> Path:
    """Save a tiny checkpoint in the SDXL inpainting layout, with nine input channels."""
    import torch
    from diffusers import StableDiffusionXLInpaintPipeline

    torch.manual_seed(seed)
    return _save(StableDiffusionXLInpaintPipeline, folder, _members(9), force_zeros=True)


def save_sdxl_refiner(folder: Path, *, seed: int = 0) -> Path:
    """Save a tiny checkpoint in the layout of the SDXL refiner: the second text encoder only, an aesthetic score."""
    import torch
    from diffusers import StableDiffusionXLImg2ImgPipeline

    torch.manual_seed(seed)
    members = _members(4) | {
        "text_encoder": None,
        "tokenizer": None,
        "requires_aesthetics_score": True,
        "unet": _unet(4, encoders=1, time_values=5),
    }
    return _save(StableDiffusionXLImg2ImgPipeline, folder, members, force_zeros=False)


def _save(kind: Any, folder: Path, members: dict[str, Any], *, force_zeros: bool) -> Path:
    kind(**members, force_zeros_for_empty_prompt=force_zeros, add_watermarker=False).save_pretrained(folder)
    return folder


def _members(in_channels: int) -> dict[str, Any]:
    tokens, tokens_2 = parts.tokenizer(), parts.tokenizer(pad="!")
    return {
        "vae": _vae(),
        "text_encoder": parts.text_encoder(tokens),
        "text_encoder_2": parts.text_encoder(tokens_2, projects=True, hidden_act="gelu"),
        "tokenizer": tokens,
        "tokenizer_2": tokens_2,
        "unet": _unet(in_channels, encoders=2, time_values=6),
        "scheduler": parts.scheduler("EulerDiscreteScheduler"),
    }


def _vae(**changes: Any) -> Any:
    return parts.vae(**{"scaling_factor": 0.13025, "force_upcast": True} | changes)


def _unet(in_channels: int, *, encoders: int, time_values: int) -> Any:
    return parts.unet(
        in_channels=in_channels,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        transformer_layers_per_block=(1, 2),
        attention_head_dim=(2, 4),
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=_TIME_WIDTH,
        projection_class_embeddings_input_dim=parts.TEXT_WIDTH + _TIME_WIDTH * time_values,
        cross_attention_dim=parts.TEXT_WIDTH * encoders,
    )
