"""Stages one and three: the autoencoder, then its decoder alone, on crops of shapes and on photo-like noise."""

from __future__ import annotations

import random
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from training.demo_model.components import Vae
from training.demo_model.scenery import scenery
from training.demo_model.schedule import Average, Clock, learning_rate, optimise
from training.demo_model.shapes import random_crops, random_drawing, render

PEAK_RATE = 2e-3
POLISH_RATE = 1e-3
KL_WEIGHT = 5e-4
SIZES = ((64, 64, 16), (64, 64, 16), (64, 64, 16), (96, 96, 7), (128, 128, 4), (96, 64, 10))


def pictures(count: int, height: int, width: int, rng: random.Random, generator: torch.Generator) -> Tensor:
    """A quarter crops, a third scenery, the rest whole drawings: (count, 3, height, width) in [-1, 1]."""
    crops, scenes = count // 4, count // 3
    drawings = [random_drawing(rng) for _ in range(count - crops - scenes)]
    parts = [render(drawings, height, width), scenery(scenes, height, width, generator)]
    if crops:
        parts.append(random_crops(rng, crops, height, width))
    return torch.cat(parts)


def edge_loss(output: Tensor, target: Tensor) -> Tensor:
    """Mean absolute difference of the horizontal and vertical gradients: what punishes soft edges."""
    error = output - target
    return (error[..., 1:] - error[..., :-1]).abs().mean() + (error[..., 1:, :] - error[..., :-1, :]).abs().mean()


def reconstruction_loss(vae: Vae, target: Tensor, *, decoder_only: bool = False) -> Tensor:
    """L1 + 2 MSE + edges + a whiff of KL; the networks run in bfloat16, the loss in float32."""
    with torch.autocast("cpu", torch.bfloat16):
        with torch.set_grad_enabled(not decoder_only):
            posterior = vae.encode(target).latent_dist
            sample = posterior.mean + posterior.std * torch.randn_like(posterior.mean)
        output = vae.decode(sample).sample.float()
    pixels = functional.l1_loss(output, target) + 2 * functional.mse_loss(output, target)
    loss: Tensor = pixels + edge_loss(output, target)
    if decoder_only:
        return loss
    mean, logvar = posterior.mean.float(), posterior.logvar.float()
    divergence = 0.5 * (mean.square() + logvar.exp() - 1 - logvar).mean()
    return torch.add(loss, divergence, alpha=KL_WEIGHT)


@torch.no_grad()
def latent_scale(vae: Vae, seed: int) -> float:
    """1 / standard deviation of the latents of drawings: the `scaling_factor` of the checkpoint."""
    rng = random.Random(seed)
    spreads = []
    for size in (64, 96, 128):
        drawn = render([random_drawing(rng) for _ in range(96)], size, size)
        spreads.append(vae.encode(drawn).latent_dist.mean.std())
    return float(1 / torch.stack(spreads).mean())


def train_vae(vae: Vae, minutes: float, seed: int, log: Callable[[str], None], *, decoder_only: bool = False) -> Vae:
    """Train `vae` for `minutes` and return its averaged weights, with `scaling_factor` set.

    With `decoder_only` the encoder and with it the meaning of latents stay, so a UNet trained on them stays valid.
    """
    rng, generator = random.Random(seed), torch.Generator().manual_seed(seed)
    vae.train().requires_grad_(True)
    trainable = (vae.decoder, vae.post_quant_conv) if decoder_only else (vae,)
    parameters = [weight for part in trainable for weight in part.parameters()]
    peak = POLISH_RATE if decoder_only else PEAK_RATE
    optimiser = torch.optim.AdamW(parameters, lr=peak, betas=(0.9, 0.99), weight_decay=1e-4)
    average, clock, running = Average(vae), Clock(minutes * 60), 0.0
    for step in clock.steps():
        height, width, count = rng.choice(SIZES)
        target = pictures(count, height, width, rng, generator)
        loss = reconstruction_loss(vae, target, decoder_only=decoder_only)
        optimise(optimiser, loss, parameters, learning_rate(peak, step, clock.fraction()))
        average.update(vae)
        running += (loss.item() - running) * (0.02 if step else 1.0)
        if step % 200 == 0:
            log(f"vae step {step}: loss {running:.4f}, {clock.fraction():.0%} of the time")
    trained: Vae = average.module
    if not decoder_only:
        trained.register_to_config(scaling_factor=round(latent_scale(trained, seed), 5))
    return trained
