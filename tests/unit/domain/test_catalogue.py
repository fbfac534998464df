"""The catalogue: what ships is valid, and a mistake in a models file names the model."""

import pytest

from common.catalogue_file import BUILT_IN, load_catalogue
from common.domain.catalogue import parse_catalogue
from common.domain.errors import Invalid
from common.settings import Settings
from worker.pipelines.registry import pipeline_for


def test_the_built_in_catalogue_loads_and_every_family_has_a_pipeline() -> None:
    for card in load_catalogue(Settings()):
        assert card.family == pipeline_for(card.family).NAME


def test_an_unknown_model_is_refused_with_a_suggestion() -> None:
    with pytest.raises(Invalid) as caught:
        parse_catalogue(BUILT_IN.read_text()).require("sdd15")
    assert caught.value.code == "unknown_model"
    assert caught.value.problems[0].did_you_mean == "sd15"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('tasks = ["sing"]', "sing"),
        ('colour = "red"', "colour"),
        ('source = { repository = "a/b", directory = "c" }', "exactly one"),
    ],
)
def test_a_mistake_in_a_models_file_names_the_model_and_the_field(line: str, message: str) -> None:
    good = {
        "title": '"t"',
        "family": '"stable_diffusion"',
        "source": '{ bundled = "demo" }',
        "tasks": '["txt2img"]',
        "native_size": "64",
        "licence": '"x"',
    }
    name, _, value = line.partition(" = ")
    text = "[mine]\n" + "\n".join(f"{key} = {content}" for key, content in (good | {name: value}).items())
    with pytest.raises(ValueError, match="mine") as caught:
        parse_catalogue(text)
    assert message in str(caught.value)
