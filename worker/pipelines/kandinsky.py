"""Kandinsky 2.2: txt2img and img2img. A prior, which is loaded beside it, turns the prompt into an image embedding."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from common.domain.capabilities import Task
from worker.pipelines.calls import noise_of, sources_of
from worker.pipelines.family import Frame, LatentRgb, Parts
from worker.pipelines.kandinsky_prior import cut_text, embeddings_of
from worker.pipelines.schedulers import fresh_scheduler

if TYPE_CHECKING:
    import torch

NAME = "kandinsky"
LOADING: Mapping[str, Any] = {}
LATENT_RGB: LatentRgb = None

_DECODER_PARTS = ("unet", "movq")


def loader() -> Any:
    """The class that loads the decoder's parts, whichever task then uses them."""
    from diffusers import KandinskyV22Pipeline

    return KandinskyV22Pipeline


def pipeline(parts: Parts, task: Task, scheduler: str | None) -> Any:
    """A decoder for one call; the prior has run in `arguments`.

    The model predicts a variance beside the noise. Only DDPM uses it; without the setting the call drops it for others.
    """
    import diffusers

    kinds: dict[Task, Any] = {
        Task.TXT2IMG: diffusers.KandinskyV22Pipeline,
        Task.IMG2IMG: diffusers.KandinskyV22Img2ImgPipeline,
        Task.INPAINT: diffusers.KandinskyV22InpaintPipeline,
    }
    own = {name: parts[name] for name in _DECODER_PARTS}
    made = kinds[task](**own, scheduler=_scheduler(parts["scheduler"], scheduler))
    made.set_progress_bar_config(disable=True)
    return made


def shape_key(parts: Parts, frame: Frame) -> str:
    """Nothing more: a prompt is one embedding, however long."""
    return ""


def warnings(parts: Parts, frame: Frame) -> list[dict[str, str]]:
    """What of the prompts is beyond the encoder's window."""
    texts = {"/prompt": frame.params.prompt, "/negative_prompt": frame.params.negative_prompt}
    cuts = {pointer: cut_text(parts, text) for pointer, text in texts.items()}
    window = parts["prior_tokenizer"].model_max_length
    return [
        {
            "code": "prompt_truncated",
            "pointer": pointer,
            "detail": f"the model reads {window} tokens; cut: '…{cut}'",
        }
        for pointer, cut in cuts.items()
        if cut
    ]


def arguments(parts: Parts, frames: Sequence[Frame]) -> dict[str, Any]:
    """One row of embeddings per frame, each from its own seed, from which its decoder's noise begins again."""
    import torch

    params = frames[0].params
    rows = [embeddings_of(parts, frame) for frame in frames]
    source = sources_of(frames)
    if params.task is Task.IMG2IMG:
        # diffusers 0.42.1 hands them on in the wrong order, in img2img only; a test tells when it does no more.
        source |= {"height": params.width, "width": params.height}
    return {
        "image_embeds": torch.cat([embedding for embedding, _ in rows]),
        "negative_image_embeds": torch.cat([negative for _, negative in rows]),
        **source,
        "generator": noise_of(frames),
        "num_inference_steps": params.scheduled_steps,
        "guidance_scale": params.guidance_scale,
    }


def autoencoder(parts: Parts) -> Any:
    """The MoVQ, which has neither slices nor tiles."""
    return parts["movq"]


def decode(parts: Parts, latents: "torch.Tensor") -> "torch.Tensor":
    """The last lines of the diffusers calls, to the byte."""
    movq = parts["movq"]
    pixels: torch.Tensor = movq.decode(latents.to(movq.dtype), force_not_quantize=True)["sample"]
    return pixels


def _scheduler(own: Any, name: str | None) -> Any:
    if name in (None, "ddpm"):
        return fresh_scheduler(own, name)
    return fresh_scheduler(own, name, without=("variance_type",))
