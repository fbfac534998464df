"""Seconds per step and memory of UNets of the real sizes with random weights, on a CUDA device; no downloads."""

import argparse
import sys
import time
from typing import Any

from benchmarks.measuring import write

SIZES = {"sd15": 512, "sdxl": 1024}
CONFIGS: dict[str, dict[str, Any]] = {
    "sd15": {"cross_attention_dim": 768, "attention_head_dim": 8},
    "sdxl": {
        "cross_attention_dim": 2048,
        "attention_head_dim": (5, 10, 20),
        "block_out_channels": (320, 640, 1280),
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        "transformer_layers_per_block": (1, 2, 10),
        "use_linear_projection": True,
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 256,
        "projection_class_embeddings_input_dim": 2816,
    },
}


def main() -> None:
    """Measure and write `results/gpu.json`; exit status 2 without a device."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, nargs="+", default=[1, 2, 4, 8], help="batch sizes of the UNet")
    parser.add_argument("--steps", type=int, default=20, help="steps per figure")
    arguments = parser.parse_args()
    import torch

    if not torch.cuda.is_available():
        print("no CUDA device on this machine: nothing was measured", file=sys.stderr)
        raise SystemExit(2)
    figures = {name: _measure(name, arguments.rows, arguments.steps) for name in CONFIGS}
    write("gpu", {"device": torch.cuda.get_device_name(0), "torch": torch.__version__, "models": figures})


def _measure(name: str, rows: list[int], steps: int) -> dict[str, Any]:
    import torch

    began = time.perf_counter()
    unet = _build(name)
    built = time.perf_counter() - began
    torch.cuda.reset_peak_memory_stats()
    seconds = {str(count): round(_seconds_per_step(unet, name, count, steps), 5) for count in rows}
    peak = torch.cuda.max_memory_allocated()
    del unet
    torch.cuda.empty_cache()
    return {"build_seconds": round(built, 2), "seconds_per_step_by_rows": seconds, "peak_bytes": peak}


def _build(name: str) -> Any:
    import torch
    from diffusers import UNet2DConditionModel

    unet = UNet2DConditionModel(sample_size=SIZES[name] // 8, **CONFIGS[name])
    return unet.to("cuda", torch.bfloat16).eval()


def _seconds_per_step(unet: Any, name: str, rows: int, steps: int) -> float:
    import torch

    side, width = SIZES[name] // 8, CONFIGS[name]["cross_attention_dim"]
    options = {"device": "cuda", "dtype": torch.bfloat16}
    inputs = (torch.randn(rows, 4, side, side, **options), 500, torch.randn(rows, 77, width, **options))
    extra = {"text_embeds": torch.randn(rows, 1280, **options), "time_ids": torch.randn(rows, 6, **options)}
    conditions = {"added_cond_kwargs": extra} if name == "sdxl" else {}
    with torch.inference_mode():
        for _ in range(3):
            unet(*inputs, **conditions)
        torch.cuda.synchronize()
        began = time.perf_counter()
        for _ in range(steps):
            unet(*inputs, **conditions)
        torch.cuda.synchronize()
    return (time.perf_counter() - began) / steps


if __name__ == "__main__":
    main()
