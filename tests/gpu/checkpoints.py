"""Random checkpoints for the device: the tiny ones of every family, and a medium one whose activations fill memory."""

from collections.abc import Callable, Mapping
from pathlib import Path

from tests import tiny_models
from tests.tiny_models import parts
from tests.unit.worker.switching import save_wide

_LATENT_SCALE = 12.0


def save_prior(folder: Path) -> Path:
    """Save a tiny Kandinsky prior whose embeddings depend on the prompt; the folder again.

    A new prior multiplies what it predicts by a deviation that is zero until it is trained.
    """
    import torch
    from diffusers import PriorTransformer

    tiny_models.save_kandinsky_prior(folder)
    prior = PriorTransformer.from_pretrained(folder / "prior")
    with torch.no_grad():
        prior.clip_std.fill_(1.0)
    prior.save_pretrained(folder / "prior")
    return folder


def save_kandinsky(folder: Path) -> Path:
    """Save a tiny decoder that can be compared between number formats; the folder again."""
    return _calm(tiny_models.save_kandinsky(folder))


def save_kandinsky_inpaint(folder: Path) -> Path:
    """Save a tiny inpainting decoder that can be compared between number formats; the folder again."""
    return _calm(tiny_models.save_kandinsky_inpaint(folder))


def save_medium(folder: Path) -> Path:
    """Save a Stable Diffusion whose activations at 1024 pixels take hundreds of megabytes, most of them in the decoder.

    Its heads are as wide as real ones, so that attention takes no memory of the size of its matrix.
    """
    import torch

    tiny_models.save_stable_diffusion(folder)
    torch.manual_seed(0)
    unet = parts.unet(
        block_out_channels=(128, 256),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
    )
    unet.save_pretrained(folder / "unet")
    parts.vae(block_out_channels=(64, 64, 64, 64), sample_size=256).save_pretrained(folder / "vae")
    return folder


BUILDERS: Mapping[str, Callable[[Path], Path]] = {
    "stable_diffusion": tiny_models.save_stable_diffusion,
    "stable_diffusion_inpaint": tiny_models.save_stable_diffusion_inpaint,
    "sdxl": tiny_models.save_sdxl,
    "sdxl_inpaint": tiny_models.save_sdxl_inpaint,
    "sdxl_refiner": tiny_models.save_sdxl_refiner,
    "kandinsky": save_kandinsky,
    "kandinsky_inpaint": save_kandinsky_inpaint,
    "kandinsky_prior": save_prior,
    "medium": save_medium,
    "wide": lambda folder: save_wide(folder, seed=0, is_half=True),
    "wide_too": lambda folder: save_wide(folder, seed=1, is_half=True),
}


def _calm(folder: Path) -> Path:
    """Let the MoVQ see latents of about one.

    A random UNet takes no noise away, so latents end about twelve times too large, and the MoVQ multiplies by them in
    every layer: a rounding error in the first would then be a different picture after the last.
    """
    import torch
    from diffusers import VQModel
    from diffusers.models.attention_processor import SpatialNorm

    movq = VQModel.from_pretrained(folder / "movq")
    with torch.no_grad():
        for norm in (part for part in movq.modules() if isinstance(part, SpatialNorm)):
            norm.conv_y.weight.div_(_LATENT_SCALE)
            norm.conv_b.weight.div_(_LATENT_SCALE)
    movq.save_pretrained(folder / "movq")
    return folder
