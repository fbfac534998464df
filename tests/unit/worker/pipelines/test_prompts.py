"""Long prompts are read to their end, short ones are left to diffusers, and what is cut is said."""

from typing import Any

import pytest

from common.domain.capabilities import Task
from tests.unit.worker.pipelines.conftest import Shop
from tests.unit.worker.pipelines.still import frame_of, pictures_of
from worker.pipelines import kandinsky, prompts, registry, sdxl, stable_diffusion
from worker.pipelines.family import Family

torch = pytest.importorskip("torch")

LONG = " ".join(f"w{number}" for number in range(200))
CHUNKED = ["stable_diffusion", "stable_diffusion_inpaint", "sdxl", "sdxl_inpaint", "sdxl_refiner"]


def first_window(family: Family, parts: dict[str, Any], text: str) -> str:
    tokenizer = parts.get("tokenizer") or parts["tokenizer_2"]
    return str(tokenizer.decode(prompts.token_ids(tokenizer, text)[:75]))


def task_of(name: str) -> Task:
    return Task.TXT2IMG if name in ("stable_diffusion", "sdxl") else Task.INPAINT


@pytest.mark.parametrize("name", CHUNKED)
@pytest.mark.parametrize("field", ["prompt", "negative_prompt"])
def test_a_prompt_of_200_words_is_another_picture_than_its_first_75_tokens(shop: Shop, name: str, field: str) -> None:
    family, parts = registry.pipeline_for(name), shop.parts(name)
    long: dict[str, Any] = {field: LONG}
    short: dict[str, Any] = {field: first_window(family, parts, LONG)}
    whole, cut = frame_of(task_of(name), **long), frame_of(task_of(name), **short)
    assert family.shape_key(parts, cut) == "1"
    assert pictures_of(family, parts, whole)[0].tobytes() != pictures_of(family, parts, cut)[0].tobytes()
    assert family.warnings(parts, whole) == []


@pytest.mark.parametrize("name", CHUNKED)
def test_a_short_prompt_is_passed_as_text(shop: Shop, name: str) -> None:
    given = registry.pipeline_for(name).arguments(shop.parts(name), [frame_of(task_of(name))])
    assert (given["prompt"], given["negative_prompt"]) == (["a red circle"], ["blurry"])
    assert not any("embeds" in argument for argument in given)


def test_a_prompt_of_exactly_one_window_is_passed_as_text(shop: Shop) -> None:
    parts = shop.parts("sdxl")
    text = "a" * 75
    assert len(prompts.token_ids(parts["tokenizer"], text)) == 75
    assert "prompt" in sdxl.arguments(parts, [frame_of(Task.TXT2IMG, prompt=text)])
    assert "prompt_embeds" in sdxl.arguments(parts, [frame_of(Task.TXT2IMG, prompt=text + "a")])


@pytest.mark.parametrize("name", ["sdxl", "sdxl_refiner"])
def test_one_window_encoded_by_hand_is_what_sdxl_encodes(shop: Shop, name: str) -> None:
    parts = shop.parts(name)
    pipeline = registry.pipeline_for(name).pipeline(parts, Task.IMG2IMG, None)
    with torch.no_grad():
        embeds, _, pooled, _ = pipeline.encode_prompt("a red circle", negative_prompt="blurry")
    own_embeds, own_pooled = prompts.encode_pair_chunks(parts, ["a red circle"], 1)
    assert torch.equal(own_embeds, embeds)
    assert torch.equal(own_pooled, pooled)


def test_one_window_encoded_by_hand_is_what_stable_diffusion_encodes(shop: Shop) -> None:
    parts = shop.parts("stable_diffusion")
    pipeline = stable_diffusion.pipeline(parts, Task.TXT2IMG, None)
    with torch.no_grad():
        embeds, _ = pipeline.encode_prompt("a red circle", "cpu", 1, True, "blurry")
    assert torch.equal(prompts.encode_chunks(parts, ["a red circle"], 1), embeds)


def test_a_short_negative_prompt_is_padded_to_the_windows_of_its_long_prompt(shop: Shop) -> None:
    parts = shop.parts("sdxl")
    given = sdxl.arguments(parts, [frame_of(Task.TXT2IMG, prompt=LONG)])
    assert given["prompt_embeds"].shape == given["negative_prompt_embeds"].shape
    assert given["prompt_embeds"].shape[1] == 77 * prompts.windows_in(parts["tokenizer"], LONG)
    assert given["pooled_prompt_embeds"].shape == given["negative_pooled_prompt_embeds"].shape == (1, 32)


def test_windows_hold_the_whole_text_in_order(shop: Shop) -> None:
    tokenizer = shop.parts("sdxl")["tokenizer_2"]
    rows = prompts.windows_of(tokenizer, LONG, prompts.windows_in(tokenizer, LONG))
    marks = {tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id}
    assert [int(token) for token in rows.flatten() if int(token) not in marks] == prompts.token_ids(tokenizer, LONG)


def test_kandinsky_says_what_of_a_long_prompt_it_does_not_read(shop: Shop) -> None:
    parts = shop.parts("kandinsky")
    assert kandinsky.warnings(parts, frame_of(Task.TXT2IMG)) == []
    (warning,) = kandinsky.warnings(parts, frame_of(Task.TXT2IMG, prompt="a" * 75 + " tail"))
    assert (warning["code"], warning["pointer"]) == ("prompt_truncated", "/prompt")
    assert warning["detail"] == "the model reads 77 tokens; cut: '…tail'"
    both = kandinsky.warnings(parts, frame_of(Task.TXT2IMG, prompt=LONG, negative_prompt=LONG))
    assert [warning["pointer"] for warning in both] == ["/prompt", "/negative_prompt"]


@pytest.mark.parametrize("name", [*CHUNKED, "kandinsky", "kandinsky_inpaint"])
def test_no_layers_of_an_encoder_are_skipped(shop: Shop, name: str) -> None:
    task = Task.TXT2IMG if name == "kandinsky" else task_of(name)
    assert "clip_skip" not in registry.pipeline_for(name).arguments(shop.parts(name), [frame_of(task)])
