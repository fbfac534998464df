"""Case 4, the soak: a random process is killed every few seconds, and every job succeeds once."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.faults.recovery import percentile
from tests.faults.soak import SeedResult, run_soak
from tests.faults.soak_report import ALLOWANCE_SECONDS, bound_seconds, write_report

pytestmark = [pytest.mark.processes, pytest.mark.postgres, pytest.mark.redis]

SLACK = 3.0


def assert_unbroken(results: list[SeedResult], told: list[str]) -> None:
    """No invariant of any seed is broken; else what was seen, and how to see it again."""
    assert not any(one.violations for one in results), "\n".join(told)


def test_no_job_is_lost_or_doubled_while_random_processes_are_killed(tmp_path: Path) -> None:
    told: list[str] = []
    results = run_soak(range(1, 2), 60, store="folder", pause_seconds=0.5, tell=told.append)
    assert_unbroken(results, told)
    assert sum(results[0].blows.values()) >= 1
    assert percentile(results[0].recovery, 1) <= SLACK * (bound_seconds() + max(results[0].sweeper_starts))


@pytest.mark.chaos
@pytest.mark.s3
@pytest.mark.timeout(6000)
def test_1000_jobs_on_ten_seeds_are_neither_lost_nor_doubled_and_back_within_lease_sweep_and_poll(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    told: list[str] = []
    results = run_soak(range(1, 11), 1000, store="s3", tell=_told_aloud(told, capsys))
    write_report(Path(os.environ.get("DARKROOM_SOAK_REPORT", tmp_path / "reliability.md")), results, store="s3")
    assert_unbroken(results, told)
    for one in results:
        assert percentile(one.recovery, 0.99) <= bound_seconds() + ALLOWANCE_SECONDS


def _told_aloud(told: list[str], capsys: pytest.CaptureFixture[str]) -> Callable[[str], None]:
    """A soak lasts a quarter of an hour: each seed is shown when it is done."""

    def tell(line: str) -> None:
        told.append(line)
        with capsys.disabled():
            print(f"\n{line}", flush=True)

    return tell
