"""Switching between models that do not fit together: what has left is gone, and memory does not grow."""

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.unit.worker.switching import SWITCHES, WARM_UP, save_wide

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc")

MODEL_BYTES = 300_000_000


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """What twenty switches in a process of its own came to; the two checkpoints do not outlive the module."""
    pytest.importorskip("torch")
    folder = tmp_path_factory.mktemp("switching")
    try:
        mapped = save_wide(folder / "mapped", seed=1, is_half=False)
        copied = save_wide(folder / "copied", seed=2, is_half=True)
        yield _switch_in_a_child([mapped, copied])
    finally:
        shutil.rmtree(folder)


def test_every_switch_leaves_one_model_and_nothing_of_the_other(seen: dict[str, Any]) -> None:
    expected = [{"resident": [name], "living": []} for name in ("copied", "mapped")]
    assert seen["switches"] == expected * ((WARM_UP + SWITCHES) // 2)


def test_twenty_switches_grow_memory_by_no_more_than_a_tenth_of_a_model(seen: dict[str, Any]) -> None:
    assert seen["model_bytes"] >= MODEL_BYTES
    assert seen["end_bytes"] - seen["warm_bytes"] <= 0.1 * seen["model_bytes"]


def test_two_models_are_at_no_moment_in_memory_together(seen: dict[str, Any]) -> None:
    """Half of a model more than one: what converting a file takes, its mapped pages beside the copy."""
    assert seen["peak_bytes"] - seen["warm_bytes"] <= 0.8 * seen["model_bytes"]


def _switch_in_a_child(folders: list[Path]) -> dict[str, Any]:
    command = [sys.executable, "-m", "tests.unit.worker.switching", *map(str, folders)]
    ended = subprocess.run(command, cwd=Path(__file__).parents[3], capture_output=True, text=True, timeout=240)
    assert ended.returncode == 0, ended.stderr
    found: dict[str, Any] = json.loads(ended.stdout.splitlines()[-1])
    return found
