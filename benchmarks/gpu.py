"""Models of the real sizes on a CUDA device: `python -m benchmarks.gpu [--models sd15 sdxl] [--batches 1 2 4 8]`.

Stable Diffusion 1.5 and SDXL with the configurations of the real checkpoints and random weights, so that nothing is
downloaded; saved once, then loaded and run as a worker does. A step is one call of the UNet with guidance, on twice as
many rows as there are images. It needs disk space for the largest model (7 GB), and exits with 2 without a device.
"""

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.measuring import write
from tests.tiny_models import card_of, parts
from tests.unit.worker.frames import frames_of, run, txt2img
from worker.checkpoints import Shelf, load_components
from worker.device import Device, pick_device
from worker.engine.pipeline_engine import PipelineEngine
from worker.engine.port import Finished
from worker.memory import release_memory, weight_bytes
from worker.pipelines.registry import pipeline_for
from worker.quiet import quiet_libraries

FAMILIES = {"sd15": "stable_diffusion", "sdxl": "sdxl"}
SIDES = {"sd15": 512, "sdxl": 1024}
SHORT, LONG, ROUNDS = 5, 25, 3
UNETS: Mapping[str, Mapping[str, Any]] = {
    "sd15": {
        "block_out_channels": (320, 640, 1280, 1280),
        "down_block_types": ("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
        "up_block_types": ("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
        "attention_head_dim": 8,
        "cross_attention_dim": 768,
    },
    "sdxl": {
        "block_out_channels": (320, 640, 1280),
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        "transformer_layers_per_block": (1, 2, 10),
        "attention_head_dim": (5, 10, 20),
        "cross_attention_dim": 2048,
        "use_linear_projection": True,
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 256,
        "projection_class_embeddings_input_dim": 2816,
    },
}
_CLIP_L = {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12}
_CLIP_G = {"hidden_size": 1280, "intermediate_size": 5120, "num_hidden_layers": 32, "num_attention_heads": 20}
_VOCABULARY = 49408


def unet_of(model: str) -> Any:
    """A UNet of the real size with random weights."""
    return parts.unet(sample_size=SIDES[model] // 8, layers_per_block=2, norm_num_groups=32, **UNETS[model])


def save_model(model: str, folder: Path, device: Device) -> None:
    """Save a random checkpoint in the device's number format; it is made on the device, where that takes seconds."""
    import diffusers
    import torch

    tokens = parts.tokenizer()
    with torch.device(device.torch_device):
        members = _members(model, tokens)
    members |= {"scheduler": parts.scheduler("DDIMScheduler"), "tokenizer": tokens}
    kind = diffusers.StableDiffusionPipeline if model == "sd15" else diffusers.StableDiffusionXLPipeline
    made: Any = kind(**members)
    made.to(dtype=device.dtype).save_pretrained(folder)
    del made, members
    release_memory()


def measure(model: str, batches: list[int], device: Device) -> dict[str, Any]:
    """Load seconds, and for each batch the seconds per step and per job and the peak of memory."""
    import torch

    family = FAMILIES[model]
    with tempfile.TemporaryDirectory() as folder:
        save_model(model, Path(folder), device)
        began = time.perf_counter()
        loaded = load_components(card_of(Path(folder), family=family), device, Shelf())
        torch.cuda.synchronize()
        load_seconds = time.perf_counter() - began
        figures = {str(batch): _measure_batch(family, loaded, batch, SIDES[model]) for batch in batches}
    return {
        "side": SIDES[model],
        "weights_mb": round(weight_bytes(loaded.values()) / 1e6),
        "load_seconds": round(load_seconds, 2),
        "batches": figures,
    }


def _measure_batch(family: str, loaded: dict[str, Any], batch: int, side: int) -> dict[str, Any] | None:
    """None when this batch does not fit. A step is the difference of a long and a short job, over the steps between."""
    import torch

    release_memory()
    torch.cuda.reset_peak_memory_stats()
    engine = PipelineEngine(pipeline_for(family), loaded, max_frames=batch)
    times: dict[int, list[float]] = {SHORT: [], LONG: []}
    for number in range(ROUNDS + 1):
        for steps, taken in times.items():
            seconds = _run_job(engine, batch, side, steps)
            if seconds is None:
                return None
            taken.extend([seconds] if number else [])  # the first round warms up
    short, long = (statistics.median(times[steps]) for steps in (SHORT, LONG))
    return {
        "seconds_per_step": round((long - short) / (LONG - SHORT), 5),
        "seconds_per_job": {str(steps): [round(one, 4) for one in taken] for steps, taken in times.items()},
        "peak_mb": round(torch.cuda.max_memory_allocated() / 1e6),
    }


def _run_job(engine: PipelineEngine, batch: int, side: int, steps: int) -> float | None:
    """Seconds of one job of so many images; None when they did not fit into one call."""
    params = txt2img(num_images=batch, width=side, height=side, num_inference_steps=steps, effective_steps=steps)
    frames = frames_of(params)
    began = time.perf_counter()
    events = run(engine, frames)
    seconds = time.perf_counter() - began
    made = [event for event in events if isinstance(event, Finished)]
    return seconds if len(made) == batch and all(one.facts["frames"] == batch for one in made) else None


def _members(model: str, tokens: Any) -> dict[str, Any]:
    members: dict[str, Any] = {
        "unet": unet_of(model),
        "vae": parts.vae(
            block_out_channels=(128, 256, 512, 512), layers_per_block=2, norm_num_groups=32, sample_size=SIDES[model]
        ),
        "text_encoder": _text_encoder(tokens, _CLIP_L),
    }
    if model == "sd15":
        return members | {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
    second = _text_encoder(tokens, _CLIP_G, projects=True, hidden_act="gelu")
    return members | {"tokenizer_2": tokens, "text_encoder_2": second, "add_watermarker": False}


def _text_encoder(tokens: Any, size: Mapping[str, Any], **changes: Any) -> Any:
    own: dict[str, Any] = {"projection_dim": size["hidden_size"], "vocab_size": _VOCABULARY}
    return parts.text_encoder(tokens, **size, **own, **changes)


def main() -> None:
    """Measure and write the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", nargs="+", choices=tuple(FAMILIES), default=list(FAMILIES))
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 2, 4, 8])
    arguments = parser.parse_args()
    import torch

    if not torch.cuda.is_available():
        print("benchmarks.gpu measures on a CUDA device, and torch sees none here: nothing measured", file=sys.stderr)
        sys.exit(2)
    quiet_libraries()
    device = pick_device("cuda")
    write(
        "gpu",
        {
            "what": "txt2img with guidance on models of the real sizes with random weights, as a worker runs them",
            "device": {"name": device.name, "dtype": str(device.dtype), "torch": torch.__version__},
            "models": {model: measure(model, arguments.batches, device) for model in arguments.models},
        },
    )


if __name__ == "__main__":
    main()
