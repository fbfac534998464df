"""What the weights of each family can do. diffusers does not check: a wrong task fails deep inside, or runs wrongly.

`worker.pipelines` does what this table promises; a parity test ties the two.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum


class Task(StrEnum):
    """What is made of what."""

    TXT2IMG = "txt2img"
    IMG2IMG = "img2img"
    INPAINT = "inpaint"


@dataclass(frozen=True, slots=True)
class Capability:
    """One family of checkpoints.

    `size_step`: sides are multiples of it, in pixels. `takes_latents`: tasks that can start from the latents of a step
    before instead of pixels. `without_strength`: tasks that always start from noise. `refined_by`: the family that can
    take over its unfinished latents. `long_prompts`: text beyond the encoder's window is encoded in chunks; without, it
    is cut and a warning says where. `is_continuous`: the step engine runs it, where unlike jobs share forward passes.
    """

    tasks: frozenset[Task]
    schedulers: tuple[str, ...]
    size_step: int = 8
    has_adapters: bool = False
    takes_latents: frozenset[Task] = frozenset()
    without_strength: frozenset[Task] = frozenset({Task.TXT2IMG})
    refined_by: str | None = None
    long_prompts: bool = True
    is_continuous: bool = False


ALL_TASKS = frozenset(Task)
INPAINT_ONLY = frozenset({Task.INPAINT})

SCHEDULERS = (
    "ddim",
    "ddpm",
    "dpmpp_2m",
    "dpmpp_2m_karras",
    "euler",
    "euler_ancestral",
    "heun",
    "kdpm2",
    "kdpm2_ancestral",
    "lcm",
    "pndm",
    "unipc",
)
# Kandinsky's loop neither scales the model's input nor spares schedulers that take no generator.
_KANDINSKY_SCHEDULERS = ("ddim", "ddpm", "dpmpp_2m")
# Distilled models know these timesteps only; diffusers refuses longer schedules.
MOST_STEPS: Mapping[str, int] = {"lcm": 50}
_FROM_LATENTS = frozenset({Task.IMG2IMG})

FAMILIES: Mapping[str, Capability] = {
    "stable_diffusion": Capability(
        ALL_TASKS, SCHEDULERS, has_adapters=True, takes_latents=_FROM_LATENTS, is_continuous=True
    ),
    "stable_diffusion_inpaint": Capability(INPAINT_ONLY, SCHEDULERS, has_adapters=True, is_continuous=True),
    "sdxl": Capability(
        ALL_TASKS,
        SCHEDULERS,
        has_adapters=True,
        takes_latents=_FROM_LATENTS,
        refined_by="sdxl_refiner",
        is_continuous=True,
    ),
    "sdxl_inpaint": Capability(
        INPAINT_ONLY, SCHEDULERS, has_adapters=True, refined_by="sdxl_refiner", is_continuous=True
    ),
    "sdxl_refiner": Capability(
        frozenset({Task.IMG2IMG, Task.INPAINT}),
        SCHEDULERS,
        takes_latents=_FROM_LATENTS | INPAINT_ONLY,
        is_continuous=True,
    ),
    "kandinsky": Capability(
        frozenset({Task.TXT2IMG, Task.IMG2IMG}),
        _KANDINSKY_SCHEDULERS,
        size_step=64,
        long_prompts=False,
        is_continuous=True,
    ),
    "kandinsky_inpaint": Capability(
        INPAINT_ONLY,
        _KANDINSKY_SCHEDULERS,
        size_step=64,
        without_strength=INPAINT_ONLY,
        long_prompts=False,
        is_continuous=True,
    ),
    # Timed steps for tests of the queue; it pretends to everything.
    "stub": Capability(ALL_TASKS, SCHEDULERS, has_adapters=True, refined_by="stub", is_continuous=True),
}
