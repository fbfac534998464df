"""Coloured shapes and their captions: the whole world that the demo model knows.

Pictures are float tensors of shape (N, 3, height, width) in [-1, 1]. Places and sizes are relative to the picture,
so one drawing looks alike at every size: centres in [0, 1], radii in fractions of the shorter side.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, replace

import torch
from torch import Tensor

PALETTE: dict[str, tuple[float, float, float]] = {
    "red": (0.86, 0.14, 0.14),
    "green": (0.13, 0.65, 0.25),
    "blue": (0.15, 0.30, 0.86),
    "yellow": (0.96, 0.85, 0.16),
    "orange": (0.96, 0.53, 0.10),
    "purple": (0.58, 0.22, 0.74),
    "black": (0.07, 0.07, 0.07),
    "white": (0.95, 0.95, 0.95),
}
COLOURS = tuple(PALETTE)
SHAPES = ("circle", "square", "triangle", "ring", "cross")
PHOTO_CAPTIONS = ("a photo", "a photo of a scene", "a picture", "a photo of a landscape", "a texture", "")
LEADS = ("a picture of ", "a photo of ", "a drawing of ", "turn it into ", "make it ", "please draw ", "change it to ")
WORDS = tuple(
    dict.fromkeys(
        [
            *COLOURS,
            *SHAPES,
            "a",
            "an",
            "on",
            "background",
            "with",
            "the",
            "and",
            "scene",
            "landscape",
            "texture",
            *" ".join(LEADS).split(),
        ]
    )
)


@dataclass(frozen=True, slots=True)
class Drawing:
    """One shape on a plain background. `jitter` shifts the six colour channels, each in [-0.06, 0.06]."""

    shape: str
    colour: str
    background: str
    centre: tuple[float, float]
    radius: float
    jitter: tuple[float, ...] = (0.0,) * 6


def random_drawing(rng: random.Random) -> Drawing:
    """A shape wholly inside the picture, its colour different from the background's."""
    colour, background = rng.sample(COLOURS, 2)
    radius = rng.uniform(0.20, 0.40)
    margin = radius + 0.03
    centre = (rng.uniform(margin, 1 - margin), rng.uniform(margin, 1 - margin))
    jitter = tuple(rng.uniform(-0.06, 0.06) for _ in range(6))
    return Drawing(rng.choice(SHAPES), colour, background, centre, radius, jitter)


def edited(target: Drawing, rng: random.Random) -> Drawing:
    """What `target` may have been before an edit: another colour, shape or background, the same place and size."""
    changes = rng.choice(("c", "s", "b", "cs", "cs", "cb", "csb"))
    source = target
    if "s" in changes:
        source = replace(source, shape=rng.choice([s for s in SHAPES if s != target.shape]))
    if "b" in changes:
        free = [c for c in COLOURS if c not in (target.background, target.colour)]
        source = replace(source, background=rng.choice(free))
    if "c" in changes:
        free = [c for c in COLOURS if c not in (target.colour, source.background)]
        source = replace(source, colour=rng.choice(free))
    return source


def caption(drawing: Drawing, rng: random.Random | None = None, *, names_background: bool = True) -> str:
    """The plain caption; with `rng`, one of its variants (a lead, another article, "with a ... background")."""
    thing = f"{drawing.colour} {drawing.shape}"
    place = f" on a {drawing.background} background" if names_background else ""
    if rng is None:
        return f"a {thing}{place}"
    if names_background and rng.random() < 0.3:
        ground = drawing.background
        place = rng.choice((f" on {ground}", f" with a {ground} background", f" on the {ground} background"))
    article = rng.choice(("a ", "a ", "a ", "the ", ""))
    lead = rng.choice(LEADS) if rng.random() < 0.25 else ""
    return f"{lead}{article}{thing}{place}"


def _bar(x: Tensor, y: Tensor, half_width: float, half_height: float) -> Tensor:
    return torch.maximum(x.abs() - half_width, y.abs() - half_height)


def _triangle(x: Tensor, y: Tensor) -> Tensor:
    """Point up, centred by its box: width 2 and height 1.8."""
    norm = (1.8**2 + 1.0) ** 0.5
    return torch.maximum(y - 0.9, (1.8 * x.abs() - (y + 0.9)) / norm)


def distance(shape: str, x: Tensor, y: Tensor) -> Tensor:
    """Signed distance (negative inside) to the shape of radius 1 at the origin; y points down."""
    if shape == "circle":
        return torch.hypot(x, y) - 1.0
    if shape == "square":
        return _bar(x, y, 0.9, 0.9)
    if shape == "triangle":
        return _triangle(x, y)
    if shape == "ring":
        return (torch.hypot(x, y) - 0.74).abs() - 0.26
    if shape == "cross":
        return torch.minimum(_bar(x, y, 1.0, 0.34), _bar(x, y, 0.34, 1.0))
    raise ValueError(f"unknown shape: {shape}")


def coverage(shape: str, centre: tuple[float, float], radius: float, height: int, width: int) -> Tensor:
    """How much of each pixel the shape covers, in [0, 1], shape (height, width); one pixel of smooth edge."""
    radius_px = radius * min(height, width)
    y = (torch.arange(height) + 0.5 - centre[1] * height)[:, None] / radius_px
    x = (torch.arange(width) + 0.5 - centre[0] * width)[None, :] / radius_px
    x, y = x.expand(height, width), y.expand(height, width)
    return (0.5 - distance(shape, x, y) * radius_px).clamp(0, 1)


def render(drawings: list[Drawing], height: int, width: int) -> Tensor:
    """(N, 3, height, width) in [-1, 1]."""
    pictures = []
    for item in drawings:
        jitter = torch.tensor(item.jitter).view(2, 3, 1, 1)
        front = torch.tensor(PALETTE[item.colour]).view(3, 1, 1) + jitter[0]
        back = torch.tensor(PALETTE[item.background]).view(3, 1, 1) + jitter[1]
        alpha = coverage(item.shape, item.centre, item.radius, height, width)
        pictures.append((back + (front - back) * alpha).clamp(0, 1))
    return torch.stack(pictures) * 2 - 1


def random_crops(rng: random.Random, count: int, height: int, width: int) -> Tensor:
    """Shapes of any colour, any size (0.08 to 0.9) and any place, cut by the frame too: what the VAE must learn."""
    pictures = []
    for _ in range(count):
        colours = torch.tensor([[rng.random() for _ in range(3)] for _ in range(3)]).view(3, 3, 1, 1)
        picture = colours[0].expand(3, height, width)
        for colour in colours[1 : rng.randint(2, 3)]:
            centre = (rng.uniform(-0.1, 1.1), rng.uniform(-0.1, 1.1))
            alpha = coverage(rng.choice(SHAPES), centre, rng.uniform(0.08, 0.9), height, width)
            picture = picture + (colour - picture) * alpha
        pictures.append(picture)
    return torch.stack(pictures) * 2 - 1
