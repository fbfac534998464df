"""Photo-like pictures made of noise: gradients, blobs, textures, patches and landscapes.

They teach the VAE to carry more than flat shapes. Every function returns (N, 3, height, width) in [0, 1],
`scenery` itself in [-1, 1].
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional


def _uniform(count: int, channels: int, generator: torch.Generator) -> Tensor:
    return torch.rand(count, channels, 1, 1, generator=generator)


def _smooth_noise(count: int, channels: int, cells: int, size: tuple[int, int], generator: torch.Generator) -> Tensor:
    coarse = torch.rand(count, channels, cells + 1, cells + 1, generator=generator)
    return functional.interpolate(coarse, size=size, mode="bicubic", align_corners=True)


def fractal(count: int, channels: int, size: tuple[int, int], generator: torch.Generator) -> Tensor:
    """Octaves of smooth noise with a random roughness: (N, channels, height, width), about [0, 1]."""
    roughness = 0.35 + 0.4 * _uniform(count, 1, generator)
    total, weight = torch.zeros(count, channels, *size), torch.zeros(count, 1, 1, 1)
    for octave in range(5):
        gain = roughness**octave
        total = total + gain * _smooth_noise(count, channels, 2 ** (octave + 1), size, generator)
        weight = weight + gain
    return ((total / weight - 0.5) * 2.2 + 0.5).clamp(0, 1)


def gradients(count: int, size: tuple[int, int], generator: torch.Generator) -> Tensor:
    """From one colour to another along a random direction."""
    angle = _uniform(count, 1, generator) * 2 * math.pi
    y, x = torch.linspace(-1, 1, size[0])[:, None], torch.linspace(-1, 1, size[1])[None, :]
    along = ((x * torch.cos(angle) + y * torch.sin(angle)) * 0.5 + 0.5).clamp(0, 1)
    first, second = _uniform(count, 3, generator), _uniform(count, 3, generator)
    return first + (second - first) * along


def blobs(count: int, size: tuple[int, int], generator: torch.Generator) -> Tensor:
    """Soft clouds of colour."""
    cells = int(torch.randint(2, 7, (1,), generator=generator))
    return _smooth_noise(count, 3, cells, size, generator).clamp(0, 1)


def textures(count: int, size: tuple[int, int], generator: torch.Generator) -> Tensor:
    """Two colours mixed by fractal noise, with a little of a third."""
    first, second = _uniform(count, 3, generator), _uniform(count, 3, generator)
    mixed = first + (second - first) * fractal(count, 1, size, generator)
    return (mixed + 0.3 * (fractal(count, 3, size, generator) - 0.5)).clamp(0, 1)


def patches(count: int, size: tuple[int, int], generator: torch.Generator) -> Tensor:
    """Irregular regions, each with its own shaded colour: hard edges as between the things of a photograph."""
    regions = int(torch.randint(4, 14, (1,), generator=generator))
    points = torch.rand(count, regions, 2, 1, 1, generator=generator)
    y, x = torch.linspace(0, 1, size[0])[:, None], torch.linspace(0, 1, size[1])[None, :]
    warp = 0.25 * (fractal(count, 2, size, generator) - 0.5)
    across = x + warp[:, :1] - points[:, :, 0]
    down = y + warp[:, 1:] - points[:, :, 1]
    share = torch.softmax(-(across**2 + down**2) * 3e3, dim=1)
    colours = torch.rand(count, regions, 3, generator=generator)
    flat = torch.einsum("nrhw,nrc->nchw", share, colours)
    return (flat + 0.25 * (fractal(count, 3, size, generator) - 0.5)).clamp(0, 1)


def landscapes(count: int, size: tuple[int, int], generator: torch.Generator) -> Tensor:
    """A sky, a ridge and a ground, as three textures behind a fractal horizon."""
    picture = 0.6 * gradients(count, size, generator) + 0.4 * blobs(count, size, generator)
    y = torch.linspace(0, 1, size[0]).view(1, 1, -1, 1)
    for level in (0.35, 0.65):
        ridge = fractal(count, 1, size, generator)[:, :, size[0] // 2, :].unsqueeze(2)
        horizon = level + 0.3 * (_uniform(count, 1, generator) - 0.5) + 0.35 * (ridge - 0.5)
        picture = torch.lerp(picture, textures(count, size, generator), ((y - horizon) * size[0] + 0.5).clamp(0, 1))
    return picture.clamp(0, 1)


KINDS = (gradients, blobs, textures, patches, patches, landscapes)


def scenery(count: int, height: int, width: int, generator: torch.Generator) -> Tensor:
    """`count` pictures of mixed kinds and saturation, (N, 3, height, width) in [-1, 1]; one in four is grainy."""
    kinds = torch.randint(len(KINDS), (count,), generator=generator)
    pictures = torch.empty(count, 3, height, width)
    for kind in sorted(set(kinds.tolist())):
        chosen = kinds == kind
        pictures[chosen] = KINDS[kind](int(chosen.sum()), (height, width), generator)
    grey = pictures.mean(1, keepdim=True)
    pictures = torch.lerp(grey, pictures, _uniform(count, 1, generator).sqrt())
    grain = 0.04 * (_uniform(count, 1, generator) < 0.25).float()
    pictures = pictures + grain * torch.randn(pictures.shape, generator=generator)
    return (pictures.clamp(0, 1) * 2 - 1).contiguous()
