"""Random checkpoints of the real classes, small enough to build in a test run: no weights are committed.

They are saved by `save_pretrained` and loaded by the production loader.
"""

from tests.tiny_models.adapters import save_adapter
from tests.tiny_models.cards import card_of, load, load_stable_diffusion
from tests.tiny_models.kandinsky import save_kandinsky, save_kandinsky_inpaint, save_kandinsky_prior
from tests.tiny_models.parts import NATIVE_SIZE, TEXT_WIDTH
from tests.tiny_models.sdxl import save_sdxl, save_sdxl_inpaint, save_sdxl_refiner
from tests.tiny_models.stable_diffusion import (
    save_stable_diffusion,
    save_stable_diffusion_2,
    save_stable_diffusion_inpaint,
)

__all__ = [
    "NATIVE_SIZE",
    "TEXT_WIDTH",
    "card_of",
    "load",
    "load_stable_diffusion",
    "save_adapter",
    "save_kandinsky",
    "save_kandinsky_inpaint",
    "save_kandinsky_prior",
    "save_sdxl",
    "save_sdxl_inpaint",
    "save_sdxl_refiner",
    "save_stable_diffusion",
    "save_stable_diffusion_2",
    "save_stable_diffusion_inpaint",
]
