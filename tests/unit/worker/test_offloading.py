"""Parts that wait in main memory: what comes to the device, what leaves it, and that pictures do not change.

The device is the CPU here, to which weights are copied as to any other.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from common.domain.capabilities import Task
from tests.tiny_models import load, save_adapter, save_kandinsky, save_kandinsky_prior, save_sdxl, save_stable_diffusion
from tests.unit.worker.frames import frames_of, img2img, pictures, run
from worker.engine.offloading import Stage, largest_bytes, offload
from worker.engine.pipeline_engine import PipelineEngine
from worker.memory import weight_bytes
from worker.pipelines.registry import pipeline_for

CPU = torch.device("cpu")
SAVERS: dict[str, Callable[[Path], Path]] = {
    "stable_diffusion": save_stable_diffusion,
    "sdxl": save_sdxl,
    "kandinsky": save_kandinsky,
}
LONG = img2img(prompt="a red circle on a green square " * 4)
Fresh = Callable[[str], dict[str, Any]]

pytestmark = pytest.mark.filterwarnings("ignore:__array(_wrap)?__ :DeprecationWarning")


@pytest.fixture(scope="module")
def fresh(tmp_path_factory: pytest.TempPathFactory) -> Fresh:
    """Newly loaded parts of a family."""
    folder = tmp_path_factory.mktemp("models")
    saved = {family: save(folder / family) for family, save in SAVERS.items()}
    prior = save_kandinsky_prior(folder / "prior")
    return lambda family: load(saved[family], family, prior=prior if family == "kandinsky" else None)


def modules(parts: dict[str, Any]) -> dict[str, torch.nn.Module]:
    return {name: part for name, part in parts.items() if isinstance(part, torch.nn.Module)}


def places(part: torch.nn.Module) -> list[int]:
    """Where the weights of a part lie."""
    return [tensor.data_ptr() for tensor in (*part.parameters(), *part.buffers())]


def draw(family: str, parts: dict[str, Any], params: Any = LONG) -> bytes:
    engine = PipelineEngine(pipeline_for(family), parts, max_frames=1)
    data: bytes = pictures(run(engine, frames_of(params)))["job-1", 0].tobytes()
    return data


@pytest.mark.parametrize("family", SAVERS)
def test_an_offloaded_model_draws_the_picture_of_a_resident_one(fresh: Fresh, family: str) -> None:
    expected = draw(family, fresh(family))
    parts = fresh(family)
    at_home = {name: places(part) for name, part in modules(parts).items()}
    stage = offload(parts, CPU)
    assert draw(family, parts) == expected
    assert draw(family, parts) == expected
    stage.clear()
    assert stage.present is None
    assert {name: places(part) for name, part in modules(parts).items()} == at_home


def test_every_part_comes_when_it_is_called_and_is_alone_on_the_device(fresh: Fresh) -> None:
    parts = fresh("sdxl")
    at_home = {name: places(part) for name, part in modules(parts).items()}
    stage, seen = offload(parts, CPU), set[frozenset[str]]()

    def look(_module: Any, _inputs: Any) -> None:
        away = [name for name, part in modules(parts).items() if not set(places(part)) & set(at_home[name])]
        seen.add(frozenset(away))
        assert [part for name, part in modules(parts).items() if name in away] == [stage.present]

    inner = [parts["unet"].conv_in, parts["vae"].quant_conv, parts["vae"].post_quant_conv]
    inner += [next(parts[name].children()) for name in ("text_encoder", "text_encoder_2")]
    for module in inner:
        module.register_forward_pre_hook(look)
    draw("sdxl", parts)
    assert seen == {frozenset({name}) for name in ("text_encoder", "text_encoder_2", "unet", "vae")}


def test_a_call_that_was_broken_off_leaves_no_more_than_one_part_behind(fresh: Fresh) -> None:
    parts = fresh("stable_diffusion")
    expected = draw("stable_diffusion", fresh("stable_diffusion"))
    stage = offload(parts, CPU)
    with pytest.raises(AttributeError):
        parts["unet"](None, None, None)
    assert stage.present is parts["unet"]
    assert draw("stable_diffusion", parts) == expected
    assert stage.present is parts["vae"]


def test_a_part_that_cannot_come_in_full_does_not_come_at_all(fresh: Fresh) -> None:
    part = fresh("stable_diffusion")["vae"]
    before = places(part)
    stage = Stage(torch.device("meta"))
    with pytest.raises(RuntimeError):
        stage.enter(part)
    assert stage.present is None
    assert places(part) == before
    assert {tensor.device for tensor in part.parameters()} == {CPU}


def test_a_number_format_given_on_the_device_stays(fresh: Fresh) -> None:
    part = fresh("stable_diffusion")["vae"]
    weights = [tensor.double() for tensor in part.parameters()]
    stage = Stage(CPU)
    stage.enter(part)
    part.to(torch.float64)
    stage.clear()
    assert all(map(torch.equal, part.parameters(), weights))
    assert part.dtype == torch.float64


def test_parts_can_come_and_go_within_inference_mode(fresh: Fresh) -> None:
    part = fresh("stable_diffusion")["unet"]
    stage = Stage(CPU)
    with torch.inference_mode():
        stage.enter(part)
        assert not any(tensor.is_inference() for tensor in part.parameters())
        stage.clear()
    assert not any(tensor.is_inference() for tensor in part.parameters())


@pytest.mark.parametrize("family", SAVERS)
def test_a_pipeline_makes_its_latents_where_its_parts_are_called(fresh: Fresh, family: str) -> None:
    parts = fresh(family)
    offload(parts, torch.device("meta"))
    pipeline = pipeline_for(family).pipeline(parts, Task.IMG2IMG, None)
    assert pipeline._execution_device == torch.device("meta")


@pytest.mark.filterwarnings("ignore:Already found a `peft_config`:UserWarning")
def test_adapters_hang_on_parts_that_wait(fresh: Fresh, tmp_path: Path) -> None:
    adapter = save_adapter(tmp_path / "lora")

    def with_adapter(parts: dict[str, Any]) -> bytes:
        pipeline = pipeline_for("stable_diffusion").pipeline(parts, Task.IMG2IMG, None)
        pipeline.load_lora_weights(str(adapter.parent), weight_name=adapter.name)
        hung = draw("stable_diffusion", parts)
        pipeline.unload_lora_weights()
        return hung

    parts = fresh("stable_diffusion")
    stage = offload(parts, CPU)
    plain = draw("stable_diffusion", parts)
    stage.clear()
    assert with_adapter(parts) == with_adapter(fresh("stable_diffusion")) != plain
    stage.clear()
    assert draw("stable_diffusion", parts) == plain


def test_an_offloaded_model_takes_what_its_largest_part_takes(fresh: Fresh) -> None:
    parts = fresh("stable_diffusion")
    assert largest_bytes(parts) == weight_bytes([parts["unet"]]) < weight_bytes(parts.values())
