"""Measure a checkpoint: `python -m training.demo_model.evaluate --model worker/assets/demo --out evaluation.json`."""

from __future__ import annotations

import argparse
import json
import random
from pathlib import Path
from typing import Any

import torch
from diffusers import StableDiffusionImg2ImgPipeline
from PIL import Image
from torch import Tensor

from training.demo_model import checkpoint
from training.demo_model.components import Pipeline
from training.demo_model.measures import box_iou, centre_shift, read_picture
from training.demo_model.scenery import scenery
from training.demo_model.shapes import Drawing, caption, edited, random_drawing, render

GUIDANCE = 7.5
STEPS = 30
STRENGTH = 0.6
SIZES = (64, 96, 128)
PLACE_SHIFT = 0.12
PLACE_IOU = 0.5
BATCH = 16


def _drawings(count: int, seed: int) -> list[Drawing]:
    rng = random.Random(seed)
    return [random_drawing(rng) for _ in range(count)]


def _generators(start: int, count: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(start + index) for index in range(count)]


def _share(flags: list[bool]) -> float:
    return round(sum(flags) / len(flags), 4)


def text_to_image(pipeline: Pipeline, drawings: list[Drawing], size: int) -> Tensor:
    """(N, 3, size, size) in [0, 1]: one picture per caption; the seed of picture i is i."""
    parts = []
    for start in range(0, len(drawings), BATCH):
        chosen = drawings[start : start + BATCH]
        output = pipeline(
            [caption(drawing) for drawing in chosen],
            height=size,
            width=size,
            num_inference_steps=STEPS,
            guidance_scale=GUIDANCE,
            generator=_generators(start, len(chosen)),
            output_type="pt",
        )
        parts.append(output.images)
    return torch.cat(parts)


def score_text_to_image(pictures: Tensor, drawings: list[Drawing]) -> dict[str, float]:
    """Shares of pictures whose background, colour, shape and all three are as the caption says."""
    readings = [read_picture(picture) for picture in pictures]
    pairs = list(zip(readings, drawings, strict=True))
    background = [seen.background == asked.background for seen, asked in pairs]
    colour = [seen.colour == asked.colour for seen, asked in pairs]
    shape = [seen.shape == asked.shape for seen, asked in pairs]
    return {
        "background": _share(background),
        "colour": _share(colour),
        "shape": _share(shape),
        "all": _share([all(flags) for flags in zip(background, colour, shape, strict=True)]),
        "mean_shape_iou": round(sum(seen.shape_iou for seen in readings) / len(readings), 4),
    }


def image_to_image(pipeline: Pipeline, sources: Tensor, drawings: list[Drawing], strength: float = STRENGTH) -> Tensor:
    """`sources` (N, 3, height, width) in [-1, 1] edited to the captions of `drawings`; returns [0, 1]."""
    editor: Pipeline = StableDiffusionImg2ImgPipeline(**pipeline.components, requires_safety_checker=False)
    editor.set_progress_bar_config(disable=True)
    parts = []
    for start in range(0, len(drawings), BATCH):
        chosen = drawings[start : start + BATCH]
        output = editor(
            [caption(drawing) for drawing in chosen],
            image=(sources[start : start + BATCH] + 1) / 2,
            strength=strength,
            num_inference_steps=STEPS,
            guidance_scale=GUIDANCE,
            generator=_generators(start, len(chosen)),
            output_type="pt",
        )
        parts.append(output.images)
    return torch.cat(parts)


def score_image_to_image(sources: Tensor, pictures: Tensor, drawings: list[Drawing]) -> dict[str, float]:
    """As for text, plus the share whose shape stayed in place: centre and box as PLACE_SHIFT and PLACE_IOU say."""
    kept, shifts = [], []
    for source, picture in zip(sources, pictures, strict=True):
        old, new = read_picture((source + 1) / 2).box, read_picture(picture).box
        if old is None or new is None:
            kept.append(False)
            continue
        shift = centre_shift(old, new) / picture.shape[2]
        shifts.append(shift)
        kept.append(shift < PLACE_SHIFT and box_iou(old, new) >= PLACE_IOU)
    mean_shift = sum(shifts) / max(1, len(shifts))
    return score_text_to_image(pictures, drawings) | {
        "place_kept": _share(kept),
        "mean_centre_shift": round(mean_shift, 4),
    }


@torch.no_grad()
def vae_psnr(pipeline: Pipeline, pictures: Tensor) -> float:
    """Mean PSNR in dB of the round trip through the mean latent; `pictures` in [-1, 1]."""
    latents = pipeline.vae.encode(pictures).latent_dist.mean
    output = pipeline.vae.decode(latents).sample.clamp(-1, 1)
    error = (output - pictures).square().mean(dim=(1, 2, 3))
    return round(float((10 * torch.log10(4 / error)).mean()), 2)


def write_sheet(pictures: Tensor, path: Path, columns: int = 8) -> None:
    """A contact sheet of (N, 3, height, width) pictures in [0, 1]."""
    height, width = pictures.shape[2:]
    rows = -(-len(pictures) // columns)
    sheet = torch.ones(3, rows * height, columns * width)
    for index, picture in enumerate(pictures):
        top, left = index // columns * height, index % columns * width
        sheet[:, top : top + height, left : left + width] = picture
    Image.fromarray((sheet.clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy()).save(path)


def evaluate(pipeline: Pipeline, count: int, seed: int, sheets: Path | None) -> dict[str, Any]:
    """All figures as one dictionary; contact sheets too if `sheets` names a folder."""
    drawings, report = _drawings(count, seed), {}
    generator = torch.Generator().manual_seed(seed)
    report["settings"] = {"captions": count, "seed": seed, "guidance": GUIDANCE, "steps": STEPS, "strength": STRENGTH}
    report["vae_psnr_db"] = {
        "drawings_64": vae_psnr(pipeline, render(drawings, 64, 64)),
        "drawings_128": vae_psnr(pipeline, render(drawings, 128, 128)),
        "scenery_128": vae_psnr(pipeline, scenery(count, 128, 128, generator)),
    }
    for size in SIZES:
        pictures = text_to_image(pipeline, drawings, size)
        report[f"txt2img_{size}"] = score_text_to_image(pictures, drawings)
        if sheets:
            write_sheet(pictures, sheets / f"txt2img-{size}.png")
    rng = random.Random(seed)
    sources = render([edited(drawing, rng) for drawing in drawings], 128, 128)
    pictures = image_to_image(pipeline, sources, drawings)
    report["img2img_128"] = score_image_to_image(sources, pictures, drawings)
    if sheets:
        pairs = torch.stack([(sources + 1) / 2, pictures], dim=1).flatten(0, 1)
        write_sheet(pairs, sheets / "img2img-128.png")
    return report


def main() -> None:
    """Evaluate, print, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, default=Path("worker/assets/demo"))
    parser.add_argument("--out", type=Path, default=Path("evaluation.json"))
    parser.add_argument("--sheets", type=Path, help="folder for contact sheets")
    parser.add_argument("--count", type=int, default=64, help="captions per size")
    parser.add_argument("--seed", type=int, default=1234)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.sheets:
        options.sheets.mkdir(parents=True, exist_ok=True)
    report = evaluate(checkpoint.load(options.model), options.count, options.seed, options.sheets)
    text = json.dumps(report, indent=2)
    options.out.write_text(text + "\n")
    print(text)


if __name__ == "__main__":
    main()
