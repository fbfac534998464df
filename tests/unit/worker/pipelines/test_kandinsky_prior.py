"""The prior of Kandinsky: run once per prompt and seed, loaded, fetched and checked beside its decoder."""

import gc
import shutil
import weakref
from pathlib import Path
from typing import Any

import pytest

from common.domain.catalogue import Source, Task
from common.domain.errors import JobFailure
from tests.tiny_models import card_of, save_kandinsky_prior
from tests.unit.worker.pipelines.conftest import Shop
from tests.unit.worker.pipelines.still import frame_of
from worker.checkpoints import Shelf, load_components, pull, verify
from worker.device import pick_device
from worker.pipelines import kandinsky, kandinsky_prior

torch = pytest.importorskip("torch")


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The seeds of all runs of the prior."""
    from diffusers import KandinskyV22PriorPipeline

    seeds: list[int] = []
    run = KandinskyV22PriorPipeline.__call__

    def counted(self: Any, *args: Any, **members: Any) -> Any:
        seeds.append(members["generator"].initial_seed())
        return run(self, *args, **members)

    monkeypatch.setattr(KandinskyV22PriorPipeline, "__call__", counted)
    return seeds


def test_the_prior_runs_once_per_prompt_and_seed(shop: Shop, runs: list[int]) -> None:
    parts = shop.load("kandinsky")
    first = kandinsky.arguments(parts, [frame_of(Task.TXT2IMG)])
    again = kandinsky.arguments(parts, [frame_of(Task.IMG2IMG, num_inference_steps=9)])
    assert len(runs) == 1
    assert torch.equal(first["image_embeds"], again["image_embeds"])
    for changes in ({"prompt": "other"}, {"negative_prompt": "other"}, {"seed": 12}):
        kandinsky.arguments(parts, [frame_of(Task.TXT2IMG, **changes)])
    assert runs == [11, 11, 11, 12]


def test_the_least_recently_used_embeddings_are_forgotten_first(
    shop: Shop, runs: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kandinsky_prior, "CACHED_EMBEDDINGS", 2)
    parts = shop.load("kandinsky")
    for seed in (1, 2, 1, 3, 1, 2):
        kandinsky_prior.embeddings_of(parts, frame_of(Task.TXT2IMG, seed=seed))
    assert runs == [1, 2, 3, 2]


def test_two_models_do_not_share_embeddings(shop: Shop, runs: list[int]) -> None:
    for _ in range(2):
        kandinsky_prior.embeddings_of(shop.load("kandinsky"), frame_of(Task.TXT2IMG))
    assert len(runs) == 2


def test_embeddings_go_when_their_model_goes(shop: Shop) -> None:
    parts = shop.load("kandinsky")
    kandinsky.arguments(parts, [frame_of(Task.TXT2IMG)])
    embedding = weakref.ref(kandinsky_prior.embeddings_of(parts, frame_of(Task.TXT2IMG))[0])
    prior = weakref.ref(parts["prior_prior"])
    assert embedding() is not None
    parts.clear()
    gc.collect()
    assert prior() is None
    assert embedding() is None


def test_parts_of_the_prior_have_their_own_names_and_what_it_never_uses_is_left_out(shop: Shop) -> None:
    parts = shop.parts("kandinsky")
    names = {"prior", "text_encoder", "tokenizer", "scheduler", "image_encoder", "image_processor"}
    assert {name for name in parts if name.startswith("prior_")} == {f"prior_{name}" for name in names}
    assert parts["prior_image_encoder"] is None


def test_a_missing_or_harmed_prior_is_said_by_every_verb(shop: Shop, tmp_path: Path) -> None:
    lost = card_of(shop.folder("kandinsky"), family="kandinsky", prior=tmp_path / "lost")
    assert "its folder is not there" in verify(lost, Shelf())[0]
    for verb in (lambda: pull(lost, Shelf()), lambda: load_components(lost, pick_device("cpu"), Shelf())):
        with pytest.raises(JobFailure, match="its folder is not there"):
            verb()


def test_a_whole_decoder_with_a_harmed_prior_is_found(shop: Shop, tmp_path: Path) -> None:
    prior = save_kandinsky_prior(tmp_path / "prior")
    card = card_of(shop.folder("kandinsky"), family="kandinsky", prior=prior)
    assert verify(card, Shelf()) == []
    assert pull(card, Shelf()) == shop.folder("kandinsky")
    weights = prior / "prior/diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    assert any("its header says" in problem for problem in verify(card, Shelf()))
    with pytest.raises(JobFailure, match="damaged or cut short"):
        load_components(card, pick_device("cpu"), Shelf())


def test_a_prior_without_the_parts_that_are_not_fetched_is_whole(shop: Shop, tmp_path: Path) -> None:
    prior = save_kandinsky_prior(tmp_path / "prior")
    for name in ("image_encoder", "image_processor"):
        shutil.rmtree(prior / name)
    card = card_of(shop.folder("kandinsky"), family="kandinsky", prior=prior)
    assert verify(card, Shelf()) == []
    assert load_components(card, pick_device("cpu"), Shelf())["prior_prior"] is not None


def test_a_fetch_fetches_the_decoder_and_the_prior_without_its_image_encoder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: dict[str, dict[str, Any]] = {}

    def download(repository: str, **wishes: Any) -> str:
        asked[repository] = wishes
        return str(tmp_path / repository)

    monkeypatch.setattr("diffusers.KandinskyV22Pipeline.download", download)
    monkeypatch.setattr("diffusers.KandinskyV22PriorPipeline.download", download)
    sources = {"source": Source(repository="owner/decoder"), "prior": Source(repository="owner/prior", revision="r")}
    card = card_of(Path(), family="kandinsky", **sources)
    assert pull(card, Shelf(token="t"), variant="fp16") == tmp_path / "owner/decoder"
    assert set(asked) == {"owner/decoder", "owner/prior"}
    assert all(wishes["use_safetensors"] and wishes["token"] == "t" for wishes in asked.values())
    assert all(wishes["variant"] == "fp16" for wishes in asked.values())
    assert asked["owner/prior"]["revision"] == "r"
    assert asked["owner/prior"]["image_encoder"] is None
