"""The benchmark for GPUs, run on the CPU with tiny models: that its parts work, not what they measure."""

import json
from pathlib import Path

import pytest

from benchmarks.gpu import main
from benchmarks.occupied import union_seconds

TINY = ("--device", "cpu", "--tiny", "--rounds", "1")


def test_a_part_writes_its_result_and_is_skipped_the_next_time(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = (*TINY, "--checkpoints", str(tmp_path / "models"), "--results", str(tmp_path), "--part", "unlike-sd15")
    assert main(arguments) == 0
    found = json.loads((tmp_path / "unlike-sd15.json").read_text())
    assert found["equal_work"]["step"]["rows"] == found["equal_work"]["loop"]["rows"]
    assert found["equal_work"]["step"]["largest_difference_of_255"] <= 1
    capsys.readouterr()
    assert main(arguments) == 0
    assert capsys.readouterr().out == "unlike-sd15: there already\n"


def test_without_a_device_nothing_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert main(()) == 2


def test_what_is_covered_twice_counts_once() -> None:
    assert union_seconds([(0.0, 1.0), (0.5, 2.0), (3.0, 4.0)]) == 3.0
