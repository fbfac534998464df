"""What the calls of all families have in common: noise, sizes and pictures, as flat lists of one entry per frame."""

from collections.abc import Sequence
from typing import Any

from common.domain.capabilities import Task
from worker.pipelines.family import Frame


def noise_of(frames: Sequence[Frame]) -> list[Any]:
    """A new generator per frame. Noise is always drawn on the CPU, so that a seed means the same on every device."""
    import torch

    return [torch.Generator("cpu").manual_seed(frame.seed) for frame in frames]


def sources_of(frames: Sequence[Frame]) -> dict[str, Any]:
    """What the frames start from: sizes; or pictures or latents with a strength; and masks."""
    params = frames[0].params
    if params.task is Task.TXT2IMG:
        return {"width": params.width, "height": params.height}
    source: dict[str, Any] = {"image": pictures_of(frames)}
    if params.strength is not None:
        source["strength"] = params.strength
    if params.task is Task.INPAINT:
        # Without them inpainting takes the checkpoint's own size, whatever the pictures have.
        source |= {"mask_image": [frame.mask for frame in frames], "width": params.width, "height": params.height}
    return source


def pictures_of(frames: Sequence[Frame]) -> Any:
    """The frames' pictures as a list, or their latents as one tensor (frames, 4, height / 8, width / 8)."""
    import torch

    latents = [frame.latents for frame in frames if frame.latents is not None]
    if not latents:
        return [frame.image for frame in frames]
    if len(latents) != len(frames):
        raise ValueError("some frames have latents and some have pictures; they cannot share a call")
    stacked = torch.stack(latents)
    if all(one.movedim(0, -1).is_contiguous() for one in latents):
        # Some schedulers leave the channels last in memory, stack does not, and convolutions then round otherwise.
        return stacked.contiguous(memory_format=torch.channels_last)
    return stacked
