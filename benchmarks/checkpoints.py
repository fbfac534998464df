"""The models of the CPU twins: random checkpoints of the real classes, and a catalogue that names them."""

from collections.abc import Callable, Mapping
from pathlib import Path

from tests import tiny_models as tiny
from tests.gpu.checkpoints import save_kandinsky

FAMILIES: Mapping[str, str] = {
    "sd15": "stable_diffusion",
    "sd21": "stable_diffusion",
    "sdxl": "sdxl",
    "sdxl-wide": "sdxl",
    "sdxl-refiner": "sdxl_refiner",
    "kandinsky22": "kandinsky",
}
PRIOR = "prior"
_CARD = """
[{model}]
title = "{model}"
family = "{family}"
source = {{ directory = "{folder}" }}
tasks = [{tasks}]
native_size = 64
licence = "none"
"""


def save_wide_sdxl(folder: Path) -> Path:
    """Save a tiny SDXL whose UNet is twice as wide, so that arithmetic and not overhead bounds it; the folder again."""
    import torch
    from diffusers import UNet2DConditionModel

    tiny.save_sdxl(folder)
    torch.manual_seed(0)
    config = UNet2DConditionModel.load_config(folder / "unet")
    UNet2DConditionModel.from_config({**config, "block_out_channels": (32, 64)}).save_pretrained(folder / "unet")
    return folder


_SAVERS: Mapping[str, Callable[[Path], Path]] = {
    "sd15": tiny.save_stable_diffusion,
    "sd21": tiny.save_stable_diffusion_2,
    "sdxl": tiny.save_sdxl,
    "sdxl-wide": save_wide_sdxl,
    "sdxl-refiner": tiny.save_sdxl_refiner,
    "kandinsky22": save_kandinsky,
}


def save_checkpoints(folder: Path, models: set[str]) -> Path:
    """Save these models, one folder each, and what they need besides; the folder again."""
    for model in sorted(models):
        _SAVERS[model](folder / model)
    if "kandinsky22" in models:
        tiny.save_kandinsky_prior(folder / PRIOR)
    return folder


def catalogue_text(folder: Path, models: set[str]) -> str:
    """A `models.toml` for what `save_checkpoints` saved there."""
    return "".join(_card(folder, model) for model in sorted(models))


def _card(folder: Path, model: str) -> str:
    tasks = '"img2img"' if model == "sdxl-refiner" else '"txt2img", "img2img"'
    card = _CARD.format(model=model, family=FAMILIES[model], folder=folder / model, tasks=tasks)
    return card + (f'prior = {{ directory = "{folder / PRIOR}" }}\n' if model == "kandinsky22" else "")
