"""Write the checkpoint: half precision, plain file names, every file replaced in one move."""

from __future__ import annotations

import copy
import os
import tempfile
from pathlib import Path

import torch
from diffusers import StableDiffusionPipeline

from training.demo_model.components import Pipeline


def load(folder: Path) -> Pipeline:
    """The pipeline in `folder`, in single precision, without a progress bar."""
    pipeline: Pipeline = StableDiffusionPipeline.from_pretrained(
        folder, dtype=torch.float32, use_safetensors=True, local_files_only=True
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def save(pipeline: Pipeline, folder: Path) -> None:
    """Save `pipeline` in float16 to `folder`. It stays as it is; a file there is whole at any time, old or new."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    halves = {
        name: copy.deepcopy(part).half() if isinstance(part, torch.nn.Module) else part
        for name, part in pipeline.components.items()
    }
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as scratch:
        smaller: Pipeline = StableDiffusionPipeline(**halves, requires_safety_checker=False)
        smaller.save_pretrained(scratch)
        publish(Path(scratch), folder)


def publish(source: Path, folder: Path) -> None:
    """Move every file of `source` to the same place under `folder` (same file system)."""
    for path in sorted(source.rglob("*")):
        target = folder / path.relative_to(source)
        if path.is_dir():
            target.mkdir(parents=True, exist_ok=True)
        else:
            target.parent.mkdir(parents=True, exist_ok=True)
            path.chmod(0o644)
            os.replace(path, target)
