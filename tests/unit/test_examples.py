"""Every example is a request that the API takes and the built-in catalogue can run, and the pages know all fields."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from api.schemas.job_request import AdapterRequest, JobRequest, OutputRequest, RefinerRequest
from api.validation import parse_job_request
from common.catalogue_file import BUILT_IN
from common.domain.capabilities import FAMILIES, SCHEDULERS
from common.domain.catalogue import parse_catalogue
from common.domain.params import EditParams
from common.domain.settling import Given, settle
from common.domain.wishes import wishes_of
from tests.architecture.source import ROOT

EXAMPLES = ROOT / "examples"
FILES = sorted(EXAMPLES.rglob("*.json"))
UPLOAD = {"upload": "upl_" + "0" * 32}

names = pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(EXAMPLES)))


def load(path: Path) -> dict[str, Any]:
    request = json.loads(path.read_text(encoding="utf-8"))
    assert isinstance(request, dict)
    return request


def local_files(path: Path) -> dict[str, Path]:
    """The pictures on this machine that a request names, by role."""
    sources = {role: load(path).get(role) for role in ("image", "mask")}
    return {role: path.parent / source["file"] for role, source in sources.items() if source and "file" in source}


def settled(path: Path) -> EditParams:
    """What the request settles to, its local pictures replaced by uploads of a fake size."""
    files = local_files(path)
    request = parse_job_request(load(path) | dict.fromkeys(files, UPLOAD))
    wishes = wishes_of(request.model_dump(mode="json", exclude={"image", "mask"}))
    given = Given((600, 400) if request.image else None, has_mask=request.mask is not None)
    return settle(wishes, parse_catalogue(BUILT_IN.read_text(encoding="utf-8")), given, random_seed=1)


def page(place: str) -> str:
    return (ROOT / place).read_text(encoding="utf-8")


def test_there_are_examples() -> None:
    assert len(FILES) >= 10


@names
def test_an_example_settles_with_the_built_in_catalogue(path: Path) -> None:
    params = settled(path)
    assert all(one.effective_steps > 0 for one in params.passes)
    assert params.seed == 42, "an example can be repeated"


@names
def test_the_pictures_of_an_example_are_there(path: Path) -> None:
    for file in local_files(path).values():
        with Image.open(file) as picture:
            picture.verify()


@names
def test_an_example_is_explained_in_the_readme(path: Path) -> None:
    assert str(path.relative_to(EXAMPLES)) in page("examples/README.md")


def test_the_mask_lies_on_its_picture() -> None:
    files = local_files(EXAMPLES / "inpaint.json")
    sizes = set()
    for file in files.values():
        with Image.open(file) as picture:
            sizes.add(picture.size)
    assert len(files) == 2
    assert len(sizes) == 1


def test_the_chains_keep_what_they_show() -> None:
    assert [one.model for one in settled(EXAMPLES / "text-to-kandinsky.json").passes] == ["sd15", "kandinsky22"]
    comic = settled(EXAMPLES / "comic-to-pixel-art.json")
    assert [one.model for one in comic.passes] == ["sd15", "comic-diffusion", "pixel-art"]
    assert len({(one.width, one.height) for one in comic.passes}) == 1, "latents can be handed on"
    assert comic.kept_passes == (0, 1, 2)


@pytest.mark.parametrize("folder", ["strength", "guidance", "negative-prompt"])
def test_a_comparison_changes_one_field(folder: str) -> None:
    requests = [load(path) for path in sorted((EXAMPLES / folder).glob("*.json"))]
    fields = {name for request in requests for name in request}
    varied = [name for name in fields if len({json.dumps(request.get(name)) for request in requests}) > 1]
    assert len(requests) == 3
    assert len(varied) == 1


def test_every_link_of_the_readme_resolves() -> None:
    links = re.findall(r"\]\((?!https?://|#)([^)#]+)", page("examples/README.md"))
    assert not [link for link in links if not (EXAMPLES / link).exists()]


@pytest.mark.parametrize("model", [JobRequest, OutputRequest, RefinerRequest, AdapterRequest])
def test_the_page_of_parameters_names_every_field_and_scheduler(model: Any) -> None:
    text = page("docs/parameters.md")
    assert not [name for name in (*model.model_fields, *SCHEDULERS) if f"`{name}`" not in text]


def test_the_page_of_models_names_every_family_and_model() -> None:
    text = page("docs/models.md")
    catalogue = parse_catalogue(BUILT_IN.read_text(encoding="utf-8"))
    expected = [*(name for name in FAMILIES if name != "stub"), *(card.id for card in catalogue)]
    assert not [name for name in expected if f"`{name}`" not in text]
