"""Read a picture back: which background, which colour, which shape, and where. No network is involved.

Pictures are (3, height, width) tensors in [0, 1].
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from training.demo_model.shapes import PALETTE, SHAPES, distance

FOREGROUND_DISTANCE = 0.25
MINIMUM_PIXELS_SHARE = 0.005
EDGE_SHARE = 0.02
MINIMUM_IOU = 0.6
HALF_EXTENT = {"square": (0.9, 0.9), "triangle": (1.0, 0.9)}
Box = tuple[int, int, int, int]


@dataclass(frozen=True, slots=True)
class Reading:
    """What was seen; `box` is (left, top, right, bottom) in pixels, right and bottom exclusive, None if empty."""

    background: str
    colour: str | None
    shape: str | None
    shape_iou: float
    box: Box | None


def nearest_colour(colour: Tensor) -> str:
    """The name in PALETTE with the smallest Euclidean distance to `colour` (3,) in RGB."""
    return min(PALETTE, key=lambda name: float((colour - torch.tensor(PALETTE[name])).norm()))


def _span(counts: Tensor) -> tuple[int, int]:
    """First and one past the last index whose count is at least EDGE_SHARE of the whole: specks do not widen it."""
    kept = (counts >= EDGE_SHARE * counts.max().clamp(min=1) + 0.5).nonzero().flatten()
    return int(kept[0]), int(kept[-1]) + 1


def bounding_box(mask: Tensor) -> Box | None:
    """The box of a boolean (height, width) mask, None if fewer than 0.5 % of the pixels are set."""
    if mask.float().mean() < MINIMUM_PIXELS_SHARE:
        return None
    left, right = _span(mask.sum(0))
    top, bottom = _span(mask.sum(1))
    return left, top, right, bottom


def ideal_mask(shape: str, height: int, width: int) -> Tensor:
    """`shape` stretched to fill (height, width), boolean."""
    half_width, half_height = HALF_EXTENT.get(shape, (1.0, 1.0))
    y = ((torch.arange(height) + 0.5) / height * 2 - 1)[:, None] * half_height
    x = ((torch.arange(width) + 0.5) / width * 2 - 1)[None, :] * half_width
    x, y = x.expand(height, width), y.expand(height, width)
    return distance(shape, x, y) < 0


def best_shape(mask: Tensor, box: Box) -> tuple[str, float]:
    """The shape whose ideal, fitted to `box`, overlaps `mask` best, and that IoU over the whole picture."""
    left, top, right, bottom = box
    scores = {}
    for shape in SHAPES:
        ideal = torch.zeros_like(mask)
        ideal[top:bottom, left:right] = ideal_mask(shape, bottom - top, right - left)
        scores[shape] = float((mask & ideal).sum() / (mask | ideal).sum())
    winner = max(scores, key=lambda name: scores[name])
    return winner, scores[winner]


def read_picture(picture: Tensor) -> Reading:
    """Background: the median of the frame. Foreground: what differs from it by more than FOREGROUND_DISTANCE."""
    margin = max(1, round(0.03 * min(picture.shape[1:])))
    inside = torch.zeros(picture.shape[1:], dtype=torch.bool)
    inside[margin:-margin, margin:-margin] = True
    ground = picture[:, ~inside].median(dim=1).values
    mask = (picture - ground.view(3, 1, 1)).norm(dim=0) > FOREGROUND_DISTANCE
    background, box = nearest_colour(ground), bounding_box(mask)
    if box is None:
        return Reading(background, None, None, 0.0, None)
    colour = nearest_colour(picture[:, mask].median(dim=1).values)
    shape, iou = best_shape(mask, box)
    return Reading(background, colour, shape if iou >= MINIMUM_IOU else None, iou, box)


def box_iou(first: Box, second: Box) -> float:
    """Intersection over union of two boxes."""
    across = min(first[2], second[2]) - max(first[0], second[0])
    down = min(first[3], second[3]) - max(first[1], second[1])
    shared = max(0, across) * max(0, down)
    areas = sum((box[2] - box[0]) * (box[3] - box[1]) for box in (first, second))
    return shared / (areas - shared)


def centre_shift(first: Box, second: Box) -> float:
    """The distance in pixels between the centres of two boxes."""
    across = (first[0] + first[2] - second[0] - second[2]) / 2
    down = (first[1] + first[3] - second[1] - second[3]) / 2
    return float((across**2 + down**2) ** 0.5)
