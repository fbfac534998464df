"""Case 10: after a sticky device error the process is replaced, and the job is retried in another one."""

import signal
from pathlib import Path

import pytest
from sqlalchemy import select

from common.db.engine import Database
from common.db.tables import attempts
from common.domain.lifecycle import JobState
from tests.making import submit
from tests.processes.harness import stack, until_finished
from tests.tiny_models import save_stable_diffusion

pytest.importorskip("torch")

pytestmark = pytest.mark.processes

MODELS = """
[tiny]
title = "Tiny"
family = "stable_diffusion"
source = {{ directory = "{folder}" }}
tasks = ["txt2img", "img2img"]
native_size = 64
licence = "none"
"""
# Every pass fails as on a device after an assert, in the first process that takes the job: a flag is left for the next.
SITE = """
from pathlib import Path

from worker.engine import building

flag, load = Path({flag!r}), building.load_components


def load_for_a_device_that_will_be_lost(*arguments):
    parts = load(*arguments)
    is_first = not flag.exists()
    flag.touch()
    if is_first:
        def fail(*_, **__):
            raise RuntimeError("CUDA error: device-side assert triggered")
        parts["unet"].register_forward_pre_hook(fail)
    return parts


building.load_components = load_for_a_device_that_will_be_lost
"""


@pytest.mark.parametrize("engine", ["pipeline", "step"])
def test_after_a_sticky_device_error_the_process_is_replaced_and_its_jobs_are_retried_elsewhere(
    tmp_path: Path, engine: str
) -> None:
    place = tmp_path / "site"
    place.mkdir()
    (place / "sitecustomize.py").write_text(SITE.format(flag=str(tmp_path / "lost once")))
    own = {"DARKROOM_DEVICE": "cpu", "DARKROOM_TORCH_THREADS": "1", "DARKROOM_ENGINE": engine, "PYTHONPATH": str(place)}
    clocks = {"DARKROOM_LEASE_SECONDS": "30", "DARKROOM_HEARTBEAT_SECONDS": "0.5"}
    with stack(tmp_path, **clocks) as built:
        (tmp_path / "models.toml").write_text(MODELS.format(folder=save_stable_diffusion(tmp_path / "tiny")))
        database = built.database
        made = [submit(database, params={"model": "tiny", "seed": seed}) for seed in range(2)]
        built.sweeper()
        launcher = built.start("client.cli", "worker", "--device", "cpu", **own)
        ends = [until_finished(database, job.id, seconds=120) for job in made]
        assert [end.state for end in ends] == [JobState.SUCCEEDED] * 2, launcher.log.read_text()
        workers = [of_attempts(database, job.id) for job in made]
        first = {worker for tried in workers for worker, outcome in tried if outcome == "retried"}
        assert len(first) == 1
        assert all(worker not in first for tried in workers for worker, outcome in tried if outcome == "succeeded")
        launcher.signal(signal.SIGTERM)
        assert launcher.wait() == 0
        database.close()


def of_attempts(database: Database, job_id: str) -> list[tuple[str, str]]:
    """Which process made each attempt, and how it ended."""
    query = select(attempts.c.worker_id, attempts.c.outcome).where(attempts.c.job_id == job_id)
    with database.read() as connection:
        return [(row.worker_id, row.outcome) for row in connection.execute(query.order_by(attempts.c.fence))]
