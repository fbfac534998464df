"""The pages point at what exists and hold no placeholders."""

import re
from pathlib import Path

import pytest

from tests.architecture.source import ROOT

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md"))]
LINK = re.compile(r"\]\((?!https?://|#)([^)#]+)")
TEST = re.compile(r"`(tests/[\w/]+\.py)(?:::(\w+))?`")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_relative_link_of_a_page_resolves(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    missing = [link for link in LINK.findall(text) if not (page.parent / link).exists()]
    assert not missing


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_no_placeholder_is_left_in_a_page(page: Path) -> None:
    assert not re.findall(r"@[A-Z]+@", page.read_text(encoding="utf-8"))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_test_that_a_page_names_exists(page: Path) -> None:
    named = TEST.findall(page.read_text(encoding="utf-8"))
    missing = [(file, name) for file, name in named if not _holds(ROOT / file, name)]
    assert not missing


def _holds(file: Path, name: str) -> bool:
    return file.exists() and bool(re.search(rf"def {name}\b" if name else "", file.read_text(encoding="utf-8")))
