"""A chain outlives the worker that runs it: what a step has made is not made again, and the pictures are the same."""

import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import select

from common.db.engine import Database
from common.db.tables import attempts, job_steps
from tests.acceptance.studio import as_data_url, photo
from tests.processes.full import start_api
from tests.processes.harness import Stack, eventually, stack

pytestmark = pytest.mark.processes

STEPS_EACH = 20
STEP_SECONDS = 0.05
CHAIN: dict[str, Any] = {
    "image": as_data_url(photo()),
    "strength": 1.0,
    "num_inference_steps": STEPS_EACH,
    "seed": 11,
    "deterministic": True,
    "steps": [{"prompt": "a lighthouse"}, {"prompt": "as a comic"}, {"prompt": "as pixel art"}],
}


@pytest.fixture
def deployment(tmp_path: Path) -> Iterator[Stack]:
    with stack(tmp_path, DARKROOM_STUB_STEP_SECONDS=str(STEP_SECONDS)) as built:
        yield built


@pytest.fixture
def client(deployment: Stack) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=start_api(deployment), timeout=30) as opened:
        yield opened


@pytest.fixture
def database(deployment: Stack) -> Iterator[Database]:
    opened = deployment.database
    yield opened
    opened.close()


def fences_of_steps(database: Database, job_id: str) -> dict[int, int]:
    """Which attempt finished which step of the chain."""
    query = select(job_steps.c.step, job_steps.c.fence).where(job_steps.c.job_id == job_id)
    with database.read() as connection:
        return {row.step: row.fence for row in connection.execute(query)}


def outcomes(database: Database, job_id: str) -> list[str]:
    query = select(attempts.c.outcome).where(attempts.c.job_id == job_id).order_by(attempts.c.fence)
    with database.read() as connection:
        return list(connection.execute(query).scalars())


def submit(client: httpx.Client, request: dict[str, Any]) -> dict[str, Any]:
    answer = client.post("/v1/jobs", json=request)
    assert answer.status_code == 202, answer.text
    job: dict[str, Any] = answer.json()
    return job


def end_of(client: httpx.Client, job: dict[str, Any]) -> dict[str, Any]:
    def look() -> dict[str, Any] | None:
        seen: dict[str, Any] = client.get(job["urls"]["self"]).raise_for_status().json()
        return seen if seen["finished_at"] else None

    done = eventually(look, what="the end of the chain")
    assert done is not None
    assert done["status"] == "succeeded", done["error"]
    return done


def sums(job: dict[str, Any]) -> list[str]:
    return [image["sha256"] for image in job["images"]]


@pytest.mark.parametrize(("keep", "results"), [("last", 1), ("all", 3)])
def test_a_chain_goes_on_after_its_last_finished_step_when_its_worker_is_killed(
    deployment: Stack, client: httpx.Client, database: Database, keep: str, results: int
) -> None:
    request = CHAIN | {"keep": keep}
    victim = deployment.worker()
    job = submit(client, request)
    eventually(lambda: fences_of_steps(database, job["id"]), what="the first finished step")
    victim.signal(signal.SIGKILL)
    victim.wait()
    finished = fences_of_steps(database, job["id"])  # one, unless this test was slower than a step of the chain
    deployment.sweeper()
    deployment.worker()
    rescued = end_of(client, job)
    assert (rescued["attempt"], len(rescued["images"])) == (2, results)
    assert outcomes(database, job["id"]) == ["lost", "succeeded"]
    assert finished[0] == 1
    assert fences_of_steps(database, job["id"]) == {0: 2, 1: 2} | finished
    undisturbed = end_of(client, submit(client, request))
    assert undisturbed["attempt"] == 1
    assert sums(rescued) == sums(undisturbed)
    step_ms = STEPS_EACH * STEP_SECONDS * 1000
    assert undisturbed["metrics"]["run_ms"] == 3 * step_ms
    assert rescued["metrics"]["run_ms"] == (3 - len(finished)) * step_ms
