"""A tiny LoRA for the tiny Stable Diffusion."""

from pathlib import Path
from typing import Any

from tests.tiny_models import parts

RANK = 4


def save_adapter(folder: Path, *, seed: int = 1, scale: float = 0.5, weights: str = "tiny.safetensors") -> Path:
    """Save a LoRA for the attention of UNet and text encoder by diffusers' own writer; the file.

    Both halves of every pair are random, so that it changes every picture; `scale` is their standard deviation.
    """
    import torch
    from diffusers import StableDiffusionPipeline

    torch.manual_seed(seed)
    unet = _with_adapter(parts.unet(), ["to_k", "to_q", "to_v", "to_out.0"], scale)
    text_encoder = _with_adapter(parts.text_encoder(parts.tokenizer()), ["q_proj", "k_proj", "v_proj"], scale)
    StableDiffusionPipeline.save_lora_weights(
        folder, unet_lora_layers=unet, text_encoder_lora_layers=text_encoder, weight_name=weights
    )
    return folder / weights


def _with_adapter(model: Any, targets: list[str], scale: float) -> dict[str, Any]:
    from diffusers.utils.state_dict_utils import convert_state_dict_to_diffusers
    from peft import LoraConfig, get_peft_model_state_dict
    from torch.nn.init import normal_

    model.add_adapter(LoraConfig(r=RANK, lora_alpha=RANK, target_modules=targets))
    for name, weight in model.named_parameters():
        if "lora_" in name:
            normal_(weight, std=scale)
    layers: dict[str, Any] = convert_state_dict_to_diffusers(get_peft_model_state_dict(model))
    return layers
