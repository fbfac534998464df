"""What one pass of a job hands to the next, and the bytes that it is stored as: exactly that tensor, nothing derived.

A safetensors file with `pixels` (images, height, width, 3) in uint8, `latents` (images, 4, height / 8, width / 8), or
both where the pictures are results as well.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy
from PIL import Image
from safetensors import SafetensorError
from safetensors.numpy import load as load_arrays
from safetensors.numpy import save as save_arrays

if TYPE_CHECKING:
    import torch

_LAYOUT = "layout"


@dataclass(frozen=True, slots=True)
class Handover:
    """The output of one pass, one entry per image of the job; at least one of the two is there. Latents may still lie
    on the device.
    """

    pictures: tuple[Image.Image, ...] | None = None
    latents: "tuple[torch.Tensor, ...] | None" = None


def pack(handover: Handover) -> bytes:
    """The file; the same handover gives the same bytes. Torch is loaded only for latents."""
    pixels = None if handover.pictures is None else numpy.stack([numpy.asarray(one) for one in handover.pictures])
    if handover.latents is None:
        return save_arrays({"pixels": pixels} if pixels is not None else {})
    import torch
    from safetensors.torch import save as save_tensors

    rows = [row.cpu() for row in handover.latents]
    layout = "contiguous" if rows[0].is_contiguous() else "channels_last"
    tensors = {"latents": torch.stack(rows).contiguous()}
    return save_tensors(
        tensors | ({} if pixels is None else {"pixels": torch.from_numpy(pixels)}), metadata={_LAYOUT: layout}
    )


def unpack(data: bytes) -> Handover:
    """What `pack` was given. Raises ValueError for anything else."""
    try:
        header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
        if "latents" not in header:
            return Handover(pictures=_pictures(load_arrays(data)["pixels"]))
        return _unpack_tensors(data, header["__metadata__"][_LAYOUT])
    except (SafetensorError, ValueError, KeyError, TypeError) as error:
        raise ValueError("the stored step is damaged") from error


def _unpack_tensors(data: bytes, layout: str) -> Handover:
    """The memory layout is restored as well: the order of the sums depends on it, and with it the last bit."""
    import torch
    from safetensors.torch import load as load_tensors

    tensors = load_tensors(data)
    pictures = _pictures(tensors["pixels"].numpy()) if "pixels" in tensors else None
    latents = tensors["latents"]
    if layout == "channels_last":
        latents = latents.contiguous(memory_format=torch.channels_last)
    return Handover(pictures, tuple(latents.unbind()))


def _pictures(pixels: Iterable[numpy.ndarray]) -> tuple[Image.Image, ...]:
    return tuple(Image.fromarray(one) for one in pixels)
