"""An evicted model leaves no memory behind: two of 300 MB and a budget for one, in a process of their own."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.tiny_models import save_stable_diffusion

torch = pytest.importorskip("torch")

ROOT = Path(__file__).parents[3]
LARGE = 300_000_000


def widen(folder: Path) -> Path:
    """A UNet of 300 MB in the place of the tiny one."""
    from diffusers import UNet2DConditionModel

    config = UNet2DConditionModel.load_config(folder / "unet")
    wide = UNet2DConditionModel.from_config(config | {"block_out_channels": (256, 1024), "norm_num_groups": 32})
    shutil.rmtree(folder / "unet")
    wide.save_pretrained(folder / "unet")
    assert sum(one.numel() * one.element_size() for one in wide.parameters()) >= LARGE
    return folder


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads resident memory from /proc")
def test_twenty_switches_between_two_large_models_leave_nothing_behind(tmp_path: Path) -> None:
    first = widen(save_stable_diffusion(tmp_path / "a"))
    shutil.copytree(first, tmp_path / "b")
    done = subprocess.run(
        [sys.executable, "-m", "tests.unit.worker.switching", str(first), str(tmp_path / "b")],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        check=True,
        text=True,
    )
    seen = json.loads(done.stdout.splitlines()[-1])
    assert seen["model_bytes"] >= LARGE
    assert seen["survivors"] == 0
    assert seen["end"] - seen["warm"] <= 0.1 * seen["model_bytes"]
