"""The tiny LoRA is a real one: diffusers loads it, and it acts on the UNet and on the text encoder."""

from pathlib import Path

import pytest

from common.domain.capabilities import Task
from tests.tiny_models import save_adapter
from tests.unit.worker.pipelines.conftest import Shop
from tests.unit.worker.pipelines.still import frame_of, pictures_of
from worker.pipelines import prompts, stable_diffusion

torch = pytest.importorskip("torch")


def test_a_tiny_adapter_changes_pictures_and_embeddings_and_leaves_no_trace(shop: Shop, tmp_path: Path) -> None:
    weights = save_adapter(tmp_path)
    parts = shop.load("stable_diffusion")
    frame = frame_of(Task.TXT2IMG)
    plain = pictures_of(stable_diffusion, parts, frame)[0].tobytes()
    embeds = prompts.encode_chunks(parts, ["a red circle"], 1)
    pipeline = stable_diffusion.pipeline(parts, Task.TXT2IMG, None)
    pipeline.load_lora_weights(weights.parent, weight_name=weights.name, adapter_name="tiny")
    assert pictures_of(stable_diffusion, parts, frame)[0].tobytes() != plain
    assert not torch.equal(prompts.encode_chunks(parts, ["a red circle"], 1), embeds)
    pipeline.set_adapters(["tiny"], [0.0])
    assert pictures_of(stable_diffusion, parts, frame)[0].tobytes() == plain
    pipeline.unload_lora_weights()
    assert pictures_of(stable_diffusion, parts, frame)[0].tobytes() == plain
