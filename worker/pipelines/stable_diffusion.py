"""Stable Diffusion 1.x and 2.x: txt2img and img2img from one set of parts."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from common.domain.catalogue import Task
from worker.pipelines.family import Frame, Parts

if TYPE_CHECKING:
    import torch

NAME = "stable_diffusion"
TASKS = frozenset({Task.TXT2IMG, Task.IMG2IMG})
LOADING: Mapping[str, Any] = {"safety_checker": None, "requires_safety_checker": False}


def loader() -> Any:
    """The class that loads the parts, whichever task then uses them."""
    from diffusers import StableDiffusionPipeline

    return StableDiffusionPipeline


def pipeline(parts: Parts, task: Task) -> Any:
    """A pipeline object for one call. The scheduler is new, from the configuration that loading has patched."""
    from diffusers import StableDiffusionImg2ImgPipeline, StableDiffusionPipeline

    kind: Any = StableDiffusionImg2ImgPipeline if task is Task.IMG2IMG else StableDiffusionPipeline
    scheduler = type(parts["scheduler"]).from_config(parts["scheduler"].config)
    made = kind(**{**parts, "scheduler": scheduler}, requires_safety_checker=False)
    made.set_progress_bar_config(disable=True)
    return made


def arguments(frames: Sequence[Frame]) -> dict[str, Any]:
    """Flat lists, one entry per frame; what frames must share is read from the first.

    `num_images_per_prompt` stays 1: with several prompts diffusers pairs images and prompts wrongly otherwise.
    """
    import torch

    params = frames[0].job.params
    shared = {
        "prompt": [frame.job.params.prompt for frame in frames],
        "negative_prompt": [frame.job.params.negative_prompt for frame in frames],
        # Noise is always drawn on the CPU, so that a seed means the same on every device.
        "generator": [torch.Generator("cpu").manual_seed(frame.seed) for frame in frames],
        "num_inference_steps": params.num_inference_steps,
        "guidance_scale": params.guidance_scale,
    }
    if params.task is Task.IMG2IMG:
        return shared | {"image": [frame.image for frame in frames], "strength": params.strength}
    return shared | {"width": params.width, "height": params.height}


def autoencoder(parts: Parts) -> Any:
    """The VAE."""
    return parts["vae"]


def decode(parts: Parts, latents: "torch.Tensor") -> "torch.Tensor":
    """The last lines of both diffusers calls, to the byte."""
    vae = parts["vae"]
    pixels: torch.Tensor = vae.decode(latents.to(vae.dtype) / vae.config.scaling_factor, return_dict=False)[0]
    return pixels
