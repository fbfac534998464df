"""What a process cannot survive."""

import subprocess
import sys
from pathlib import Path

from tests.gpu.studio import Studio

ROOT = Path(__file__).parents[2]


def test_a_device_side_assert_ends_the_engine_as_device_lost(studio: Studio) -> None:
    studio.card("stable_diffusion")  # saves the checkpoint
    command = [sys.executable, "-m", "tests.gpu.child", "fault", str(studio.root), "stable_diffusion"]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=240)
    assert ended.stdout.splitlines()[-1:] == ["DeviceLost"], ended.stdout + ended.stderr
