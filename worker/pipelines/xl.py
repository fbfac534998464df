"""What SDXL, its inpainting checkpoints and its refiner have in common."""

from collections.abc import Sequence
from inspect import signature
from typing import TYPE_CHECKING, Any

from common.domain.capabilities import Task
from worker.pipelines.calls import noise_of, sources_of
from worker.pipelines.family import Frame, LatentRgb, Parts
from worker.pipelines.prompts import chunk_count, clip_pair_prompts
from worker.pipelines.schedulers import fresh_scheduler

if TYPE_CHECKING:
    import torch

# The usual linear fit of SDXL latents to RGB, the one without a bias (ComfyUI, latent_formats.py).
LATENT_RGB: LatentRgb = (
    (0.392, 0.4054, 0.4549),
    (-0.2634, -0.0196, 0.0653),
    (0.0568, 0.1687, -0.0755),
    (-0.3112, -0.2359, -0.2076),
)


def pipeline(parts: Parts, task: Task, scheduler: str | None) -> Any:
    """A pipeline object for one call, without the watermark that would change every picture.

    Not every pipeline class knows every setting of the checkpoint; each gets those that it has.
    """
    import diffusers

    kinds: dict[Task, Any] = {
        Task.TXT2IMG: diffusers.StableDiffusionXLPipeline,
        Task.IMG2IMG: diffusers.StableDiffusionXLImg2ImgPipeline,
        Task.INPAINT: diffusers.StableDiffusionXLInpaintPipeline,
    }
    kind = kinds[task]
    known = {name: parts[name] for name in signature(kind).parameters if name in parts}
    own = {**known, "scheduler": fresh_scheduler(parts["scheduler"], scheduler), "add_watermarker": False}
    made = kind(**own)
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

    Sizes that condition the model are left to the defaults, which are those of the picture that is made.
    """
    _mend_precision(parts)
    params = frames[0].params
    source = sources_of(frames)
    if params.denoising_start is not None:
        source.pop("strength", None)
    cuts = {"denoising_end": params.denoising_end, "denoising_start": params.denoising_start}
    return {
        **clip_pair_prompts(parts, frames),
        **source,
        **{name: share for name, share in cuts.items() if share is not None},
        "generator": noise_of(frames),
        "num_inference_steps": params.scheduled_steps,
        "guidance_scale": params.guidance_scale,
    }


def autoencoder(parts: Parts) -> Any:
    """The VAE."""
    return parts["vae"]


def decode(parts: Parts, latents: "torch.Tensor") -> "torch.Tensor":
    """The last lines of the diffusers calls, to the byte. The VAE has its number format again afterwards."""
    import torch

    vae = parts["vae"]
    own = vae.dtype
    if own == torch.float16 and vae.config.force_upcast:  # its activations overflow in float16
        vae.to(dtype=torch.float32)
    try:
        pixels: torch.Tensor = vae.decode(_unscale(vae, latents.to(vae.dtype)), return_dict=False)[0]
    finally:
        vae.to(dtype=own)
    return pixels


def _unscale(vae: Any, latents: "torch.Tensor") -> "torch.Tensor":
    import torch

    mean, deviation = getattr(vae.config, "latents_mean", None), getattr(vae.config, "latents_std", None)
    if mean is None or deviation is None:
        return latents / float(vae.config.scaling_factor)
    mean, deviation = (torch.tensor(row).view(1, -1, 1, 1).to(latents) for row in (mean, deviation))
    return latents * deviation / float(vae.config.scaling_factor) + mean


def _mend_precision(parts: Parts) -> None:
    """A call that failed while it encoded a picture has left the VAE in float32."""
    if parts["vae"].dtype != parts["unet"].dtype:
        parts["vae"].to(dtype=parts["unet"].dtype)
