"""`darkroom show-params`: what it prints and how it exits."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from client import cli
from common.images.encode import ImageFormat, encode

Run = Callable[..., tuple[int, str, str]]

RECIPE: dict[str, Any] = {"prompt": "ein Kätzchen 猫", "seed": 42, "output": {"format": "png"}}


@pytest.fixture
def show(capsys: pytest.CaptureFixture[str]) -> Run:
    """One call: exit code, standard output, standard error."""

    def command(file: Path) -> tuple[int, str, str]:
        code = cli.run(["show-params", str(file)])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return command


@pytest.mark.parametrize("format_", ["png", "jpeg", "webp"])
def test_the_recipe_is_printed_as_json(show: Run, tmp_path: Path, format_: ImageFormat) -> None:
    file = tmp_path / "result"
    file.write_bytes(encode(Image.new("RGB", (16, 16)), format=format_, metadata=RECIPE).data)
    code, out, err = show(file)
    assert (code, json.loads(out), err) == (0, RECIPE, "")
    assert '\n  "prompt": "ein Kätzchen 猫"' in out


@pytest.mark.parametrize("prompt", ["\ud800", "\x1b[2J", "\x9b2J", "\u202e"])
def test_a_prompt_that_a_terminal_cannot_show_is_escaped(show: Run, tmp_path: Path, prompt: str) -> None:
    file = tmp_path / "result.png"
    file.write_bytes(encode(Image.new("RGB", (16, 16)), metadata={"prompt": prompt}).data)
    out = show(file)[1]
    assert out.isascii()
    assert json.loads(out) == {"prompt": prompt}


def test_a_picture_without_a_recipe_is_told_in_a_sentence(show: Run, tmp_path: Path) -> None:
    file = tmp_path / "bare.png"
    file.write_bytes(encode(Image.new("RGB", (16, 16))).data)
    code, out, err = show(file)
    assert (code, out) == (1, "")
    assert err.startswith(f"darkroom: {file} does not say how it was made")


def test_what_is_no_picture_is_told_in_a_sentence(show: Run, tmp_path: Path) -> None:
    file = tmp_path / "notes.txt"
    file.write_text("not a picture")
    assert show(file) == (1, "", f"darkroom: {file} is not a readable PNG, JPEG or WebP file\n")


def test_a_file_that_cannot_be_read_is_told_in_a_sentence(show: Run, tmp_path: Path) -> None:
    missing = tmp_path / "missing.png"
    assert show(missing) == (1, "", f"darkroom: {missing} cannot be read: No such file or directory\n")
    assert show(tmp_path) == (1, "", f"darkroom: {tmp_path} cannot be read: Is a directory\n")


def test_the_command_line_loads_no_pillow_before_it_is_needed() -> None:
    program = "import sys, client.cli; sys.exit('PIL' in sys.modules)"
    subprocess.run([sys.executable, "-c", program], check=True)
