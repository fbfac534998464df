"""From pixels on the device to pictures, and the test that they are pictures at all."""

from typing import TYPE_CHECKING

from PIL.Image import Image, fromarray

if TYPE_CHECKING:
    import torch


def finite_rows(tensor: "torch.Tensor") -> list[bool]:
    """For each row of the first dimension, whether it is free of NaN and infinity."""
    import torch

    return [bool(whole) for whole in torch.isfinite(tensor).flatten(1).all(dim=1).tolist()]


def to_pictures(pixels: "torch.Tensor") -> list[Image]:
    """RGB pictures of (frames, 3, height, width) between -1 and 1, rounded as diffusers rounds its own.

    All but the copy happens on the device, so that the device thread does not compute on the CPU.
    """
    import torch

    shares = (pixels * 0.5 + 0.5).clamp(0, 1).float()
    levels = (shares * 255).round().to(torch.uint8).permute(0, 2, 3, 1).contiguous().cpu()
    return [fromarray(one) for one in levels.numpy()]


def is_black(picture: Image) -> bool:
    """True when every channel of every pixel is 0, which is how diffusers shows a failed decode."""
    return picture.getbbox() is None
