"""Pre-encoded pictures for stage two: pairs of before and after, in pools of one size each."""

from __future__ import annotations

import random
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import CLIPTokenizer

from training.demo_model.components import Vae
from training.demo_model.scenery import scenery
from training.demo_model.shapes import PHOTO_CAPTIONS, caption, edited, random_drawing, render

CHUNK = 64
SCENES_PER_CHUNK = 2
TOKENS_PER_BATCH = 3072


@dataclass(frozen=True, slots=True)
class Pool:
    """Pictures of one size. `before` and `after` (N, 4, height / 8, width / 8) are scaled latents of two pictures
    that differ by an edit; `captions` (N, 77) are the token ids that describe `after`."""

    before: Tensor
    after: Tensor
    captions: Tensor

    def batch(self, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """A random batch with about the same number of latent cells at every size."""
        cells = self.after.shape[2] * self.after.shape[3]
        chosen = torch.randint(len(self.after), (TOKENS_PER_BATCH // cells,), generator=generator)
        return self.before[chosen], self.after[chosen], self.captions[chosen]


def token_ids(tokenizer: CLIPTokenizer, captions: list[str]) -> Tensor:
    """(N, 77) ids, padded as the pipeline pads them."""
    encoded = tokenizer(captions, padding="max_length", truncation=True, return_tensors="pt")
    ids: Tensor = encoded.input_ids
    return ids


def _chunk(height: int, width: int, rng: random.Random, generator: torch.Generator) -> tuple[Tensor, Tensor, list[str]]:
    """CHUNK pictures before, the same after, and the captions of the latter; a few of them scenes."""
    after = [random_drawing(rng) for _ in range(CHUNK - SCENES_PER_CHUNK)]
    before = [edited(drawing, rng) for drawing in after]
    captions = []
    for old, new in zip(before, after, strict=True):
        names_background = old.background != new.background or rng.random() < 0.9
        captions.append(caption(new, rng, names_background=names_background))
    scenes = scenery(SCENES_PER_CHUNK, height, width, generator)
    captions += [rng.choice(PHOTO_CAPTIONS) for _ in range(SCENES_PER_CHUNK)]
    old_pictures, new_pictures = render(before, height, width), render(after, height, width)
    return torch.cat([old_pictures, scenes]), torch.cat([new_pictures, scenes]), captions


@torch.no_grad()
def build_pool(vae: Vae, tokenizer: CLIPTokenizer, size: tuple[int, int], count: int, seed: int) -> Pool:
    """About `count` pairs of `size` = (height, width) pixels, encoded to the mean of the posterior."""
    rng, generator = random.Random(f"{seed}-{size}"), torch.Generator().manual_seed(seed + size[0] * 1000 + size[1])
    parts: tuple[list[Tensor], list[Tensor], list[Tensor]] = ([], [], [])
    for _ in range(max(1, count // CHUNK)):
        before, after, captions = _chunk(*size, rng, generator)
        with torch.autocast("cpu", torch.bfloat16):
            both = vae.encode(torch.cat([before, after])).latent_dist.mean.float()
        first, second = (both * vae.config.scaling_factor).chunk(2)
        for part, value in zip(parts, (first, second, token_ids(tokenizer, captions)), strict=True):
            part.append(value)
    return Pool(*(torch.cat(part) for part in parts))
