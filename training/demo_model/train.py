"""Trains the demo model: `python -m training.demo_model.train --out worker/assets/demo --minutes 60`.

First the autoencoder on shapes and textures, then UNet and text encoder together on latents of captioned shapes. Both
schedules follow the clock, so any number of minutes ends with a finished model. One CPU thread, or a GPU if there is.
"""

import argparse
import copy
import math
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import Tensor
from torch.nn import functional
from transformers import CLIPTextModel, CLIPTokenizer

from training.demo_model import layout
from training.demo_model.shapes import draw, random_scene, texture

AUTOENCODER_SHARE = 0.34
LATENT_COUNTS = {(64, 64): 8000, (96, 96): 3000, (128, 128): 5000, (128, 96): 1200, (96, 128): 1200}
PIXELS_PER_BATCH = 16 * 64 * 64
LATENTS_PER_BATCH = 48 * 8 * 8
CAPTION_DROPOUT = 0.1
SNR_CAP = 5.0
SAVE_SECONDS = 300.0


@dataclass(frozen=True, slots=True)
class Clock:
    """A stage of training that lasts `seconds` from `began`."""

    began: float
    seconds: float

    @property
    def done(self) -> float:
        """The part of the stage that is over, 0 to 1 and beyond."""
        return (time.monotonic() - self.began) / self.seconds

    def rate(self, peak: float) -> float:
        """The learning rate now: a short warm-up, then a cosine to nothing."""
        return peak * min(1.0, self.done / 0.02) * 0.5 * (1 + math.cos(math.pi * min(1.0, self.done)))


@dataclass(frozen=True, slots=True)
class Bucket:
    """Latents of one size, (n, 4, height / 8, width / 8), with the token ids of their captions, (n, 77)."""

    latents: Tensor
    tokens: Tensor


def train_autoencoder(random: torch.Generator, seconds: float) -> AutoencoderKL:
    """An autoencoder whose latents have a standard deviation of 1 after `scaling_factor`."""
    model = layout.make_autoencoder()
    optimizer = torch.optim.AdamW(model.parameters(), betas=(0.9, 0.99))
    clock, step = Clock(time.monotonic(), seconds), 0
    while clock.done < 1:
        _set_rate(optimizer, clock.rate(2e-3))
        pictures = _pictures(random)
        posterior = model.encode(pictures).latent_dist
        loss = _reconstruction(model.decode(posterior.sample()).sample, pictures) + 1e-5 * posterior.kl().mean() / 64
        _descend(optimizer, loss, model.parameters())
        step += 1
        if step % 100 == 0:
            print(f"autoencoder {clock.done:5.1%} step {step} loss {loss.item():.4f}", flush=True)
    with torch.no_grad():
        deviation = torch.cat([model.encode(_pictures(random)).latent_dist.mean.flatten() for _ in range(20)]).std()
    model.register_to_config(scaling_factor=round(1 / deviation.item(), 5))
    return model.eval()


def encode_latents(model: AutoencoderKL, tokenizer: CLIPTokenizer, random: torch.Generator) -> list[Bucket]:
    """The training set of the UNet: scaled latents of random scenes, by size."""
    return [_bucket(model, tokenizer, random, size, count) for size, count in LATENT_COUNTS.items()]


def train_unet(
    buckets: list[Bucket],
    tokenizer: CLIPTokenizer,
    random: torch.Generator,
    seconds: float,
    save: Callable[[UNet2DConditionModel, CLIPTextModel], None],
) -> None:
    """Epsilon prediction with min-SNR weights (Hang et al. 2023); what is saved is the moving average."""
    unet, text = layout.make_unet(), layout.make_text_encoder(tokenizer)
    mean_unet, mean_text = copy.deepcopy(unet), copy.deepcopy(text)
    parameters = [*unet.parameters(), *text.parameters()]
    optimizer = torch.optim.AdamW(parameters, betas=(0.9, 0.99), weight_decay=1e-3)
    clock, step, saved_at = Clock(time.monotonic(), seconds), 0, time.monotonic()
    alphas = layout.make_scheduler().alphas_cumprod
    empty = _tokens(tokenizer, [""])
    batches = _batches(buckets, random)
    while clock.done < 1:
        _set_rate(optimizer, clock.rate(1.5e-3))
        latents, tokens = next(batches)
        dropped = torch.rand(len(tokens), 1, generator=random) < CAPTION_DROPOUT
        loss = _denoising(unet, text, latents, torch.where(dropped, empty, tokens), alphas, random)
        _descend(optimizer, loss, parameters)
        step += 1
        decay = min(0.998, step / (step + 20))
        _average(mean_unet, unet, decay)
        _average(mean_text, text, decay)
        if step % 100 == 0:
            print(f"unet {clock.done:5.1%} step {step} loss {loss.item():.4f}", flush=True)
        if time.monotonic() - saved_at > SAVE_SECONDS:
            save(copy.deepcopy(mean_unet), copy.deepcopy(mean_text))
            saved_at = time.monotonic()
    save(mean_unet, mean_text)


def _pictures(random: torch.Generator) -> Tensor:
    side = (64, 64, 64, 96, 128)[int(torch.randint(5, (1,), generator=random))]
    return torch.stack([_picture(random, side) for _ in range(max(2, PIXELS_PER_BATCH // side**2))])


def _picture(random: torch.Generator, side: int) -> Tensor:
    if torch.rand(1, generator=random) < 0.25:
        return texture(random, side, side)
    jitter = torch.randn(2, 3, generator=random) * 0.05
    return draw(random_scene(random, side, side), side, side, jitter)


def _reconstruction(output: Tensor, target: Tensor) -> Tensor:
    error = output - target
    edges = error.diff(dim=2).abs().mean() + error.diff(dim=3).abs().mean()
    return error.abs().mean() + 2 * error.square().mean() + edges


@torch.no_grad()
def _bucket(
    model: AutoencoderKL, tokenizer: CLIPTokenizer, random: torch.Generator, size: tuple[int, int], count: int
) -> Bucket:
    width, height = size
    latents, captions = [], []
    for _ in range(0, count, 20):
        scenes = [random_scene(random, width, height) for _ in range(20)]
        jitter = torch.randn(20, 2, 3, generator=random) * 0.02
        pictures = torch.stack([draw(scene, width, height, j) for scene, j in zip(scenes, jitter, strict=True)])
        latents.append(model.encode(pictures).latent_dist.mean * model.config.scaling_factor)
        captions += [scene.caption for scene in scenes]
    print(f"encoded {count} pictures of {width}x{height}", flush=True)
    return Bucket(torch.cat(latents), _tokens(tokenizer, captions))


def _batches(buckets: list[Bucket], random: torch.Generator) -> Iterator[tuple[Tensor, Tensor]]:
    shares = torch.tensor([float(len(bucket.latents)) for bucket in buckets])
    while True:
        bucket = buckets[int(torch.multinomial(shares, 1, generator=random))]
        count = max(8, LATENTS_PER_BATCH // (bucket.latents.shape[2] * bucket.latents.shape[3]))
        chosen = torch.randint(len(bucket.latents), (count,), generator=random)
        yield bucket.latents[chosen], bucket.tokens[chosen]


def _denoising(
    unet: UNet2DConditionModel,
    text: CLIPTextModel,
    latents: Tensor,
    tokens: Tensor,
    alphas: Tensor,
    random: torch.Generator,
) -> Tensor:
    times = torch.randint(len(alphas), (len(latents),), generator=random)
    noise = torch.randn(latents.shape, generator=random)
    alpha = alphas[times][:, None, None, None]
    noisy = alpha.sqrt() * latents + (1 - alpha).sqrt() * noise
    predicted = unet(noisy, times, text(tokens).last_hidden_state).sample
    snr = alphas[times] / (1 - alphas[times])
    error = functional.mse_loss(predicted, noise, reduction="none").mean((1, 2, 3))
    return (error * (SNR_CAP / snr).clamp(max=1.0)).mean()


def _tokens(tokenizer: CLIPTokenizer, captions: list[str]) -> Tensor:
    ids: Tensor = tokenizer(captions, padding="max_length", max_length=77, return_tensors="pt").input_ids
    return ids


def _set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = rate


def _descend(optimizer: torch.optim.Optimizer, loss: Tensor, parameters: object) -> None:
    optimizer.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    torch.nn.utils.clip_grad_norm_(parameters, 1.0)  # type: ignore[arg-type]
    optimizer.step()


@torch.no_grad()
def _average(mean: torch.nn.Module, now: torch.nn.Module, decay: float) -> None:
    for old, new in zip(mean.parameters(), now.parameters(), strict=True):
        old.lerp_(new, 1 - decay)


def main() -> None:
    """Train and save."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(arguments.seed)
    random, tokenizer = torch.Generator().manual_seed(arguments.seed), layout.make_tokenizer()
    began, seconds = time.monotonic(), arguments.minutes * 60
    autoencoder = train_autoencoder(random, seconds * AUTOENCODER_SHARE)
    buckets = encode_latents(autoencoder, tokenizer, random)

    def save(unet: UNet2DConditionModel, text: CLIPTextModel) -> None:
        beside = arguments.out.with_name(arguments.out.name + ".new")
        layout.save(beside, copy.deepcopy(autoencoder), unet, text, tokenizer)
        shutil.rmtree(arguments.out, ignore_errors=True)
        beside.rename(arguments.out)

    train_unet(buckets, tokenizer, random, began + seconds - time.monotonic(), save)


if __name__ == "__main__":
    main()
