"""Stage two: the denoiser and its text encoder, trained together on pre-encoded latents.

Noise prediction as in Stable Diffusion 1.5, with three additions: min-SNR weights (Hang et al. 2023, gamma 5), a
little offset noise, so that the mean of a picture says less about its colours than the caption does, and for a share
of each batch a noisy latent made from the picture *before* an edit whose target is the picture *after* it. The last
one is what img2img does at inference; it teaches the model to obey the caption and to keep the place.
"""

from __future__ import annotations

import random
from collections.abc import Callable

import torch
from torch import Tensor, nn

from training.demo_model.components import Pipeline
from training.demo_model.latents import Pool, build_pool, token_ids
from training.demo_model.schedule import Average, Clock, learning_rate, optimise

PEAK_RATE = 1.5e-3
CAPTION_DROPOUT = 0.1
EDIT_SHARE = 0.0
EDIT_TIMESTEPS = (250, 800)
OFFSET_NOISE = 0.0
SNR_GAMMA = 5.0
SAVE_SECONDS = 180
SIZES: dict[tuple[int, int], float] = {
    (64, 64): 0.36,
    (96, 96): 0.16,
    (128, 128): 0.42,
    (96, 128): 0.03,
    (128, 96): 0.03,
}


class Denoiser(nn.Module):
    """The text encoder and the UNet as one trainable thing."""

    def __init__(self, pipeline: Pipeline) -> None:
        super().__init__()
        self.text_encoder = pipeline.text_encoder
        self.unet = pipeline.unet

    def forward(self, noisy: Tensor, timesteps: Tensor, ids: Tensor) -> Tensor:
        """The predicted noise, of the shape of `noisy` (N, 4, h, w); `ids` is (N, 77)."""
        predicted: Tensor = self.unet(noisy, timesteps, self.text_encoder(ids)[0]).sample
        return predicted


def denoising_loss(
    model: Denoiser, batch: tuple[Tensor, Tensor, Tensor], empty: Tensor, alphas: Tensor, generator: torch.Generator
) -> Tensor:
    """The weighted error of one batch; `empty` (1, 77) are the ids of no caption, `alphas` (1000,) cumulative."""
    before, after, ids = batch
    count = len(after)
    draw = torch.rand(count, 3, generator=generator)
    timesteps = torch.randint(len(alphas), (count,), generator=generator)
    low, high = EDIT_TIMESTEPS
    edits = draw[:, 0] < EDIT_SHARE
    timesteps[edits] = low + (draw[edits, 2] * (high - low)).long()
    dropped = (draw[:, 1] < CAPTION_DROPOUT) & ~edits
    ids = torch.where(dropped[:, None], empty, ids)
    noise = torch.randn(after.shape, generator=generator)
    noise = noise + OFFSET_NOISE * torch.randn(count, after.shape[1], 1, 1, generator=generator)
    signal = alphas[timesteps].sqrt().view(-1, 1, 1, 1)
    spread = (1 - alphas[timesteps]).sqrt().view(-1, 1, 1, 1)
    source = torch.where(edits.view(-1, 1, 1, 1), before, after)
    noisy = signal * source + spread * noise
    wanted = (noisy - signal * after) / spread
    snr = (signal / spread).square().view(-1)
    weights = snr.clamp(max=SNR_GAMMA) / snr
    errors = (model(noisy, timesteps, ids) - wanted).square().mean(dim=(1, 2, 3))
    return torch.mean(weights * errors)


def build_pools(pipeline: Pipeline, pictures: int, seed: int) -> list[Pool]:
    """One pool for each of SIZES, `pictures` in all."""
    return [
        build_pool(pipeline.vae, pipeline.tokenizer, size, int(pictures * share), seed) for size, share in SIZES.items()
    ]


def train_unet(
    pipeline: Pipeline,
    minutes: float,
    seed: int,
    log: Callable[[str], None],
    save: Callable[[Pipeline], None],
    *,
    pictures: int,
) -> None:
    """Train the UNet and the text encoder of `pipeline`; `save` is called every three minutes and at the end with the
    averaged weights in the pipeline."""
    clock = Clock(minutes * 60)
    pools = build_pools(pipeline, pictures, seed)
    log(f"encoded {sum(len(pool.after) for pool in pools)} pairs, {clock.fraction():.0%} of the time")
    rng, generator = random.Random(seed), torch.Generator().manual_seed(seed)
    alphas: Tensor = pipeline.scheduler.alphas_cumprod
    empty = token_ids(pipeline.tokenizer, [""])
    model = Denoiser(pipeline).train()
    average = Average(model)
    pipeline.register_modules(text_encoder=average.module.text_encoder, unet=average.module.unet)
    parameters = [weight for weight in model.parameters() if weight.requires_grad]
    optimiser = torch.optim.AdamW(parameters, lr=PEAK_RATE, betas=(0.9, 0.99), weight_decay=1e-3)
    running, saves = 0.0, 0
    for step in clock.steps():
        pool = rng.choices(pools, weights=list(SIZES.values()))[0]
        loss = denoising_loss(model, pool.batch(generator), empty, alphas, generator)
        optimise(optimiser, loss, parameters, learning_rate(PEAK_RATE, step, clock.fraction()))
        average.update(model)
        running += (loss.item() - running) * (0.01 if step else 1.0)
        if step % 200 == 0:
            log(f"unet step {step}: loss {running:.4f}, {clock.fraction():.0%} of the time")
        if clock.fraction() * clock.budget_seconds > SAVE_SECONDS * (saves + 1):
            save(pipeline)
            saves += 1
    save(pipeline)
