"""Stable Diffusion 1.x and 2.x: txt2img, img2img and inpaint from one set of parts."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from common.domain.capabilities import Task
from worker.pipelines.calls import noise_of, sources_of
from worker.pipelines.family import Frame, LatentRgb, Parts
from worker.pipelines.prompts import chunk_count, clip_prompts
from worker.pipelines.schedulers import fresh_scheduler

if TYPE_CHECKING:
    import torch

NAME = "stable_diffusion"
LOADING: Mapping[str, Any] = {"safety_checker": None, "requires_safety_checker": False}
# The usual linear fit of SD 1.x latents to RGB.
LATENT_RGB: LatentRgb = ((0.298, 0.207, 0.208), (0.187, 0.286, 0.173), (-0.158, 0.189, 0.264), (-0.184, -0.271, -0.473))


def loader() -> Any:
    """The class that loads the parts, whichever task then uses them."""
    from diffusers import StableDiffusionPipeline

    return StableDiffusionPipeline


def pipeline(parts: Parts, task: Task, scheduler: str | None) -> Any:
    """A pipeline object for one call. The scheduler is new, from the configuration that loading has patched."""
    import diffusers

    kinds: dict[Task, Any] = {
        Task.TXT2IMG: diffusers.StableDiffusionPipeline,
        Task.IMG2IMG: diffusers.StableDiffusionImg2ImgPipeline,
        Task.INPAINT: diffusers.StableDiffusionInpaintPipeline,
    }
    own = {**parts, "scheduler": fresh_scheduler(parts["scheduler"], scheduler), "requires_safety_checker": False}
    made = kinds[task](**own)
    made.set_progress_bar_config(disable=True)
    return made


def shape_key(parts: Parts, frame: Frame) -> str:
    """How many chunks the prompts have."""
    return str(chunk_count(parts, frame.params))


def warnings(parts: Parts, frame: Frame) -> list[dict[str, str]]:
    """None: long prompts are encoded in chunks."""
    return []


def arguments(parts: Parts, frames: Sequence[Frame]) -> dict[str, Any]:
    """Flat lists, one entry per frame; what frames must share is read from the first.

    `num_images_per_prompt` stays 1: with several prompts diffusers pairs images and prompts wrongly otherwise.
    """
    params = frames[0].params
    return {
        **clip_prompts(parts, frames),
        **sources_of(frames),
        "generator": noise_of(frames),
        "num_inference_steps": params.scheduled_steps,
        "guidance_scale": params.guidance_scale,
    }


def autoencoder(parts: Parts) -> Any:
    """The VAE."""
    return parts["vae"]


def decode(parts: Parts, latents: "torch.Tensor") -> "torch.Tensor":
    """The last lines of the diffusers calls, to the byte."""
    vae = parts["vae"]
    pixels: torch.Tensor = vae.decode(latents.to(vae.dtype) / vae.config.scaling_factor, return_dict=False)[0]
    return pixels
