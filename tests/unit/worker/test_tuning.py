"""Channels last and fused projections: what they change in a model, and what they leave."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.tiny_models import (
    TEXT_WIDTH,
    load,
    save_kandinsky,
    save_kandinsky_prior,
    save_sdxl,
    save_stable_diffusion,
)
from tests.unit.worker.frames import frames_of, img2img, largest_difference, pictures, run
from worker.checkpoints.tuning import tune
from worker.engine.pipeline_engine import PipelineEngine
from worker.memory import weight_bytes
from worker.pipelines.registry import pipeline_for

SAVERS: dict[str, Callable[[Path], Path]] = {
    "stable_diffusion": save_stable_diffusion,
    "sdxl": save_sdxl,
    "kandinsky": save_kandinsky,
}
Fresh = Callable[[str], dict[str, Any]]


@pytest.fixture(scope="module")
def fresh(tmp_path_factory: pytest.TempPathFactory) -> Fresh:
    """Newly loaded parts of a family."""
    folder = tmp_path_factory.mktemp("models")
    saved = {family: save(folder / family) for family, save in SAVERS.items()}
    prior = save_kandinsky_prior(folder / "prior")
    return lambda family: load(saved[family], family, prior=prior if family == "kandinsky" else None)


def painted(family: str, parts: dict[str, Any]) -> torch.Tensor:
    """What the model makes of one step and a decoding: the parts that can be tuned, one after the other."""
    source = torch.Generator().manual_seed(0)
    width = parts["unet"].config.cross_attention_dim or TEXT_WIDTH
    latents, text = torch.randn(2, 4, 8, 8, generator=source), torch.randn(2, 77, width, generator=source)
    conditions = {
        "text_embeds": text[:, 0, :TEXT_WIDTH],
        "time_ids": torch.full((2, 6), 64.0),
        "image_embeds": text[:, 0, :TEXT_WIDTH],
    }
    states = None if family == "kandinsky" else text
    with torch.inference_mode():
        step = parts["unet"](latents, 500, encoder_hidden_states=states, added_cond_kwargs=conditions).sample
        return pipeline_for(family).decode(parts, step[:, :4])


def convolutions(part: Any) -> list[torch.Tensor]:
    return [one.weight for one in part.modules() if isinstance(one, torch.nn.Conv2d) and one.kernel_size != (1, 1)]


@pytest.mark.parametrize("family", SAVERS)
def test_a_tuned_model_paints_the_same_but_for_rounding(fresh: Fresh, family: str) -> None:
    parts = fresh(family)
    expected = painted(family, parts)
    tune(parts, channels_last=True, fuse_qkv=True)
    assert torch.allclose(painted(family, parts), expected, atol=1e-4, rtol=1e-4)


def test_a_tuned_model_draws_the_same_picture_to_the_eye(fresh: Fresh) -> None:
    parts = fresh("stable_diffusion")
    engine = PipelineEngine(pipeline_for("stable_diffusion"), parts, max_frames=1)
    expected = pictures(run(engine, frames_of(img2img())))["job-1", 0]
    tune(parts, channels_last=True, fuse_qkv=True)
    assert largest_difference(pictures(run(engine, frames_of(img2img())))["job-1", 0], expected) <= 2


def test_a_model_is_left_alone_where_nothing_is_asked_for(fresh: Fresh) -> None:
    parts = fresh("stable_diffusion")
    expected = painted("stable_diffusion", parts)
    tune(parts, channels_last=False, fuse_qkv=False)
    assert torch.equal(painted("stable_diffusion", parts), expected)


@pytest.mark.parametrize(
    ("family", "names"),
    [("stable_diffusion", ["unet", "vae"]), ("sdxl", ["unet", "vae"]), ("kandinsky", ["unet", "movq"])],
)
def test_convolutions_have_their_channels_last(fresh: Fresh, family: str, names: list[str]) -> None:
    parts = fresh(family)
    tune(parts, channels_last=True, fuse_qkv=False)
    weights = [weight for name in names for weight in convolutions(parts[name])]
    assert weights
    assert all(weight.is_contiguous(memory_format=torch.channels_last) for weight in weights)


@pytest.mark.parametrize("family", ["stable_diffusion", "sdxl"])
def test_fused_projections_take_the_place_of_those_they_are_made_of(fresh: Fresh, family: str) -> None:
    parts = fresh(family)
    before = weight_bytes(parts.values())
    tune(parts, channels_last=False, fuse_qkv=True)
    names = {name.split(".")[-2] for part in ("unet", "vae") for name, _ in parts[part].named_parameters()}
    assert {"to_qkv", "to_kv", "to_q"} <= names
    assert not {"to_k", "to_v"} & names
    assert weight_bytes(parts.values()) == before


def test_kandinsky_keeps_its_projections(fresh: Fresh) -> None:
    parts = fresh("kandinsky")
    tune(parts, channels_last=False, fuse_qkv=True)
    assert not [name for name, _ in parts["unet"].named_parameters() if "to_qkv" in name]
