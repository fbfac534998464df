"""Finding, loading and checking checkpoints, and what is said when one cannot be had."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from common.domain.catalogue import ModelCard, Source
from common.domain.errors import JobFailure
from tests.tiny_models import card_of, save_stable_diffusion
from worker.checkpoints import HubRepository, Shelf, load_components, locate, pull, verify
from worker.checkpoints.explaining import explain
from worker.device import pick_device
from worker.quiet import quiet_libraries

torch = pytest.importorskip("torch")

UNET = "unet/diffusion_pytorch_model.safetensors"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return save_stable_diffusion(tmp_path / "tiny")


@pytest.fixture
def hub_card() -> ModelCard:
    return card_of(Path(), source=Source(repository="owner/name"))


@pytest.mark.parametrize(
    ("source", "models_dir", "place"),
    [
        (Source(directory="/weights/x"), None, Path("/weights/x")),
        (Source(directory="x"), Path("/weights"), Path("/weights/x")),
        (Source(repository="a/b", revision="r"), None, HubRepository("a/b", "r")),
        (
            Source(repository="runwayml/stable-diffusion-v1-5"),
            None,
            HubRepository("stable-diffusion-v1-5/stable-diffusion-v1-5"),
        ),
    ],
)
def test_a_source_names_one_place(source: Source, models_dir: Path | None, place: Path | HubRepository) -> None:
    assert locate(source, models_dir) == place


def test_a_bundled_model_lies_beside_the_worker() -> None:
    place = locate(Source(bundled="demo"), None)
    assert isinstance(place, Path)
    assert place.parts[-3:] == ("worker", "assets", "demo")


def test_a_relative_folder_without_a_models_folder_says_what_to_set() -> None:
    with pytest.raises(JobFailure, match="DARKROOM_MODELS_DIR"):
        locate(Source(directory="x"), None)


def test_what_is_loaded_is_on_the_device_without_a_safety_checker(folder: Path) -> None:
    parts = load_components(card_of(folder), pick_device("cpu"), Shelf())
    assert parts["safety_checker"] is None
    assert {parts[name].dtype for name in ("unet", "vae", "text_encoder")} == {pick_device("cpu").dtype}


def test_a_whole_checkpoint_has_nothing_wrong_with_it(folder: Path) -> None:
    assert verify(card_of(folder), Shelf()) == []
    assert pull(card_of(folder), Shelf()) == folder


def _cut(folder: Path) -> None:
    path = folder / UNET
    path.write_bytes(path.read_bytes()[:-100])


def _empty(folder: Path) -> None:
    (folder / UNET).write_bytes(b"")


def _garble(folder: Path) -> None:
    path = folder / UNET
    data = path.read_bytes()
    path.write_bytes(data[:8] + b"?" * 50 + data[58:])


def _pickle(folder: Path) -> None:
    (folder / UNET).rename(folder / "unet/diffusion_pytorch_model.bin")


def _lose_part(folder: Path) -> None:
    (folder / "vae").rename(folder / "vea")


def _lose_index(folder: Path) -> None:
    (folder / "model_index.json").unlink()


@pytest.mark.parametrize(
    ("harm", "seen", "said"),
    [
        (_cut, "its header says", "damaged or cut short"),
        (_empty, "no safetensors header", "damaged or cut short"),
        (_garble, "header is damaged", "damaged or cut short"),
        (_pickle, "no safetensors weights", "has no safetensors weights"),
        (_lose_part, "the folder is missing", "cannot be loaded"),
        (_lose_index, "model_index.json is missing", "cannot be loaded"),
    ],
)
def test_a_harmed_checkpoint_is_found_by_verify_and_explained_by_loading(
    folder: Path, harm: Callable[[Path], None], seen: str, said: str
) -> None:
    harm(folder)
    assert any(seen in problem for problem in verify(card_of(folder), Shelf()))
    with pytest.raises(JobFailure, match=said) as caught:
        load_components(card_of(folder), pick_device("cpu"), Shelf())
    assert caught.value.code == "model_unavailable"
    assert str(folder) not in caught.value.detail


def test_code_that_a_checkpoint_brings_is_named(folder: Path) -> None:
    path = folder / "model_index.json"
    index = json.loads(path.read_text())
    path.write_text(json.dumps(index | {"unet": ["mine", "Net"]}))
    assert any("wants code of 'mine'" in problem for problem in verify(card_of(folder), Shelf()))
    with pytest.raises(JobFailure):
        load_components(card_of(folder), pick_device("cpu"), Shelf())


def test_a_folder_that_is_not_there_is_said_by_every_verb(tmp_path: Path) -> None:
    lost = card_of(tmp_path / "lost")
    assert "its folder is not there" in verify(lost, Shelf())[0]
    for verb in (lambda: pull(lost, Shelf()), lambda: load_components(lost, pick_device("cpu"), Shelf())):
        with pytest.raises(JobFailure, match="its folder is not there"):
            verb()


def test_a_missing_shard_is_found(folder: Path) -> None:
    index = folder / "unet/diffusion_pytorch_model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": "shard-1.safetensors", "b": "shard-1.safetensors"}}))
    assert verify(card_of(folder), Shelf()) == [f"{folder}/unet/shard-1.safetensors: is missing"]


def test_weights_without_the_wanted_variant_say_so(folder: Path) -> None:
    with pytest.raises(JobFailure, match="no files of variant fp16"):
        load_components(card_of(folder, variant="fp16"), replace(pick_device("cpu"), dtype=torch.float16), Shelf())


def test_a_pickled_text_encoder_is_not_loaded(folder: Path) -> None:
    (folder / "text_encoder/model.safetensors").rename(folder / "text_encoder/pytorch_model.bin")
    with pytest.raises(JobFailure, match="so they are not loaded"):
        load_components(card_of(folder), pick_device("cpu"), Shelf())


def test_a_repository_in_the_cache_is_loaded_without_the_hub(
    folder: Path, hub_card: ModelCard, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    repository = tmp_path / "hub/models--owner--name"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs/main").write_text("0" * 40)
    folder.rename(_made(repository / "snapshots") / ("0" * 40))
    assert load_components(hub_card, pick_device("cpu"), Shelf())["unet"] is not None
    assert verify(hub_card, Shelf()) == []


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True)
    return folder


def test_a_repository_that_is_not_in_the_cache_says_how_to_get_it(
    hub_card: ModelCard, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(JobFailure, match="darkroom models pull tiny"):
        load_components(hub_card, pick_device("cpu"), Shelf())
    assert "darkroom models pull tiny" in verify(hub_card, Shelf())[0]


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("GatedRepoError", "https://huggingface.co/owner/name is gated. Visit the page"),
        ("RepositoryNotFoundError", "set HF_TOKEN if it is private"),
        ("RevisionNotFoundError", "has no revision"),
        ("DisabledRepoError", "was taken down"),
        ("OfflineModeIsEnabled", "the hub cannot be reached"),
    ],
)
def test_what_the_hub_refuses_is_said_with_its_remedy(hub_card: ModelCard, name: str, said: str) -> None:
    hub_error = type(name, (RuntimeError,), {})("https://secret.example/internal")
    error = OSError("cannot load")
    error.__cause__ = hub_error
    failure = explain(error, hub_card, HubRepository("owner/name"))
    assert said in failure.detail
    assert "secret.example" not in failure.detail


def test_quiet_libraries_can_be_called_again() -> None:
    quiet_libraries()
    quiet_libraries()


def test_a_token_is_not_shown() -> None:
    assert "hf_secret" not in repr(Shelf(token="hf_secret"))


def test_a_fetch_asks_for_safetensors_only_and_for_no_safety_checker(
    hub_card: ModelCard, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: dict[str, Any] = {}

    def download(repository: str, **wishes: Any) -> str:
        asked.update(wishes, repository=repository)
        return str(tmp_path)

    monkeypatch.setattr("diffusers.StableDiffusionPipeline.download", download)
    assert pull(hub_card, Shelf(token="t"), variant="fp16") == tmp_path
    assert asked.pop("repository") == "owner/name"
    assert (asked["use_safetensors"], asked["trust_remote_code"], asked["safety_checker"]) == (True, False, None)
    assert (asked["token"], asked["variant"]) == ("t", "fp16")
