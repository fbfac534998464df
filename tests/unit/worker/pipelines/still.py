"""Frames for tests of families, and the three calls that an engine makes of a family."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from PIL import Image, ImageDraw

from common.domain.capabilities import Task
from common.domain.params import PassParams
from worker.pipelines.family import Family

if TYPE_CHECKING:
    import torch

SEED = 11
STEPS = 4


@dataclass(frozen=True, slots=True)
class StillFrame:
    """All that a family reads of a frame."""

    params: PassParams
    seed: int = SEED
    image: Image.Image | None = None
    mask: Image.Image | None = None
    latents: "torch.Tensor | None" = None


def params_of(task: Task, **changes: Any) -> PassParams:
    """A small pass; `size` is (width, height)."""
    width, height = changes.pop("size", (64, 64))
    strength = None if task is Task.TXT2IMG else 0.6
    members: dict[str, Any] = {
        "task": task,
        "model": "tiny",
        "prompt": "a red circle",
        "negative_prompt": "blurry",
        "strength": strength,
        "guidance_scale": 5.0,
        "num_inference_steps": STEPS,
        "effective_steps": STEPS,
        "seed": SEED,
        "width": width,
        "height": height,
    }
    return PassParams(**members | changes)


def frame_of(task: Task, *, seed: int = SEED, latents: Any = None, blue: int = 128, **changes: Any) -> StillFrame:
    """A frame with a picture and a mask where the task wants them."""
    params = params_of(task, **changes)
    size = (params.width, params.height)
    picture = None if task is Task.TXT2IMG or latents is not None else gradient(size, blue=blue)
    return StillFrame(params, seed, picture, box(size) if task is Task.INPAINT else None, latents)


def gradient(size: tuple[int, int], *, blue: int = 128) -> Image.Image:
    """A picture that is different everywhere."""
    ramp = Image.linear_gradient("L")
    return Image.merge("RGB", (ramp.resize(size), ramp.rotate(90).resize(size), Image.new("L", size, blue)))


def box(size: tuple[int, int], *, left: int = 16) -> Image.Image:
    """A mask that repaints a rectangle."""
    mask = Image.new("L", size, 0)
    ImageDraw.Draw(mask).rectangle((left, 8, left + 24, 40), fill=255)
    return mask


def largest_difference(one: Image.Image, other: Image.Image) -> int:
    """The largest difference of any channel of any pixel, of 255."""
    from PIL import ImageChops

    extrema: Any = ImageChops.difference(one, other).getextrema()
    return max(int(high) for _, high in extrema)


def generator(seed: int = SEED) -> Any:
    """What a user passes for a seed."""
    import torch

    return torch.Generator("cpu").manual_seed(seed)


def latents_of(family: Family, parts: Mapping[str, Any], frames: Sequence[StillFrame]) -> Any:
    """What the denoising of these frames leaves, as a tensor."""
    params = frames[0].params
    pipeline = family.pipeline(parts, params.task, params.scheduler)
    return pipeline(**family.arguments(parts, frames), output_type="latent").images


def pictures_of(family: Family, parts: Mapping[str, Any], *frames: StillFrame) -> list[Image.Image]:
    """The pictures of frames in one call, as an engine makes them."""
    return decoded(family, parts, latents_of(family, parts, frames))


def decoded(family: Family, parts: Mapping[str, Any], latents: Any) -> list[Image.Image]:
    """The pictures of latents, as an engine makes them."""
    import torch
    from diffusers.image_processor import VaeImageProcessor

    with torch.no_grad():
        pixels = family.decode(parts, latents)
    pictures: list[Image.Image] = VaeImageProcessor().postprocess(pixels)
    return pictures
