"""What a queue of twenty was told of its start, against when it started: real API and worker on the stub device."""

from datetime import datetime, timedelta
from pathlib import Path
from statistics import median
from typing import Any

import httpx
import pytest
from sqlalchemy import select

from common.db.engine import Database
from common.db.tables import workers
from tests.processes.full import start_api
from tests.processes.harness import Stack, eventually, stack, until_finished

pytestmark = pytest.mark.processes

QUEUE = 20
STEP_SECONDS = 0.05
ALONE = {"deterministic": True, "num_inference_steps": 10}
# A wave of eight is on the device long enough for one look to see the rest of the queue at rest.
TOGETHER = {"deterministic": False, "num_inference_steps": 60}


def submit(url: str, number: int, **members: Any) -> dict[str, Any]:
    body = {"prompt": f"picture {number}", "model": "stub"} | members
    answer = httpx.post(f"{url}/v1/jobs", json=body)
    answer.raise_for_status()
    job: dict[str, Any] = answer.json()
    return job


def measured(database: Database) -> float | None:
    """The pace that the worker has told."""
    with database.read() as connection:
        paces = connection.execute(select(workers.c.paces)).scalar_one_or_none()
    return paces.get("stub") if paces else None


def run(url: str, database: Database, count: int, **members: Any) -> None:
    for job in [submit(url, number, **members) for number in range(count)]:
        until_finished(database, job["id"])


def foretold(url: str, jobs: list[dict[str, Any]]) -> dict[str, tuple[float, datetime]]:
    """Of every queued job the seconds that it is told and when it was told them, once the look is fresh."""

    def told() -> dict[str, tuple[float, datetime]] | None:
        shown = []
        for one in jobs:
            answer = httpx.get(f"{url}/v1/jobs/{one['id']}")
            shown.append((answer.json(), datetime.now().astimezone()))
        queued = [(job, at) for job, at in shown if job["status"] == "queued"]
        places = [job["queue"]["position"] for job, _ in queued]
        is_whole = places and None not in places and len(set(places)) == len(places)
        return {job["id"]: (job["queue"]["eta_seconds"], at) for job, at in queued} if is_whole else None

    return eventually(told, what="a look at the whole queue") or {}


@pytest.mark.parametrize(("members", "before"), [(ALONE, 4), (TOGETHER, 16)], ids=["one at a time", "in company"])
def test_a_queue_of_twenty_is_told_when_it_starts(
    tmp_path: Path, members: dict[str, Any], before: int, capsys: pytest.CaptureFixture[str]
) -> None:
    with stack(tmp_path, DARKROOM_STUB_STEP_SECONDS=str(STEP_SECONDS)) as built:
        database = built.database
        try:
            figures = _compare(built, database, before, members)
        finally:
            database.close()
    with capsys.disabled():
        print(f"\n{figures}")


def _compare(built: Stack, database: Database, before: int, members: dict[str, Any]) -> str:
    """Told and true seconds until the start, in words; how good they are depends on the machine and fails nothing.

    So many jobs run before, for the worker to measure.
    """
    url = start_api(built)
    built.worker()
    run(url, database, before, **members)
    pace = eventually(lambda: measured(database), what="a measured pace")
    jobs = [submit(url, number, **members) for number in range(QUEUE)]
    told = foretold(url, jobs)
    ended = {job["id"]: until_finished(database, job["id"]) for job in jobs}
    assert told
    assert all(seconds is not None and seconds >= 0 for seconds, _ in told.values())
    pairs = []
    for job_id, (seconds, at) in told.items():
        started_at = ended[job_id].started_at
        assert started_at is not None
        pairs.append((seconds, (started_at - at) / timedelta(seconds=1)))
    return _in_words(pace, pairs)


def _in_words(pace: float, pairs: list[tuple[float, float]]) -> str:
    ratios = [told / true for told, true in pairs if true > 0.5]
    within = sum(0.5 <= ratio <= 2 for ratio in ratios)
    told, true = pairs[-1]
    return (
        f"{pace:g} s per megapixel and step (guess 0.3); {len(pairs)} of {QUEUE} queued when told; the last was told "
        f"{told:.1f} s and started after {true:.1f} s; told / true where true is above 0.5 s: "
        + (f"median {median(ratios):.2f}, {min(ratios):.2f} to {max(ratios):.2f}, " if ratios else "")
        + f"{within} of {len(ratios)} within a factor of 2"
    )
