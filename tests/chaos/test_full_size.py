"""Faults at full size: the clocks of a real deployment, more jobs, the real model. `make test-chaos`."""

import signal
import time
from pathlib import Path

import httpx
import pytest
import redis
from sqlalchemy import func, select

from common.db.engine import Database
from common.db.tables import attempts, images, jobs
from common.domain.lifecycle import JobState
from tests.making import submit
from tests.processes.full import full_stack
from tests.processes.harness import eventually, look_at, until_finished
from tests.service_urls import REDIS

pytestmark = [pytest.mark.chaos, pytest.mark.postgres, pytest.mark.redis, pytest.mark.timeout(900)]

RECOVERY_SECONDS = 40


def test_a_dead_workers_job_is_running_again_within_40_seconds_on_default_clocks(tmp_path: Path) -> None:
    with full_stack(tmp_path, DARKROOM_STUB_STEP_SECONDS="0.1") as (built, _):
        built.sweeper()
        victim, database = built.worker(), built.database
        job = submit(database, params={"num_inference_steps": 100, "effective_steps": 100})
        eventually(lambda: look_at(database, job.id).attempt == 1, what="the first attempt")
        built.worker()
        victim.signal(signal.SIGKILL)
        killed_at = time.monotonic()
        eventually(lambda: look_at(database, job.id).attempt == 2, seconds=120, what="the second attempt")
        assert time.monotonic() - killed_at <= RECOVERY_SECONDS
        assert until_finished(database, job.id, seconds=60).state is JobState.SUCCEEDED
        database.close()


def test_a_wiped_broker_and_killed_workers_lose_none_of_200_jobs(tmp_path: Path) -> None:
    scaled = {"DARKROOM_LEASE_SECONDS": "2", "DARKROOM_HEARTBEAT_SECONDS": "0.4", "DARKROOM_SWEEP_SECONDS": "0.3"}
    with full_stack(tmp_path, DARKROOM_STUB_STEP_SECONDS="0.02", **scaled) as (built, _):
        built.sweeper()
        database, broker = built.database, redis.Redis.from_url(REDIS)
        made = [submit(database, params={"seed": seed, "deterministic": True}, max_tries=20) for seed in range(200)]
        for _ in range(5):
            victim = built.worker()
            eventually(lambda: _running(database) > 0, what="a running job")
            broker.flushall()
            victim.signal(signal.SIGKILL)
        built.worker()
        built.worker()
        for job in made:
            assert until_finished(database, job.id, seconds=120).state is JobState.SUCCEEDED
        with database.read() as connection:
            assert connection.execute(select(func.count()).select_from(images)).scalar_one() == 200
            won = select(func.count()).where(attempts.c.outcome == "succeeded")
            assert connection.execute(won).scalar_one() == 200
        broker.close()
        database.close()


def test_a_killed_worker_of_the_real_model_leaves_one_picture_of_the_second_attempt(tmp_path: Path) -> None:
    settings = {"DARKROOM_DEVICE": "cpu", "DARKROOM_TORCH_THREADS": "1"}
    scaled = {"DARKROOM_LEASE_SECONDS": "4", "DARKROOM_HEARTBEAT_SECONDS": "0.8", "DARKROOM_SWEEP_SECONDS": "0.3"}
    with full_stack(tmp_path, **settings, **scaled) as (built, url), httpx.Client(base_url=url, timeout=30) as client:
        built.sweeper()
        victim, database = built.worker("cpu"), built.database
        wish = {"prompt": "a red circle on a white background", "num_inference_steps": 150, "num_images": 4, "seed": 1}
        job = client.post("/v1/jobs", json=wish).raise_for_status().json()
        eventually(lambda: look_at(database, job["id"]).attempt == 1, seconds=60, what="the first attempt")
        victim.signal(signal.SIGKILL)
        built.worker("cpu")
        done = until_finished(database, job["id"], seconds=300)
        assert (done.state, done.attempt, len(done.images)) == (JobState.SUCCEEDED, 2, 4)
        assert {image.key.split("/")[-2] for image in done.images} == {"2"}
        database.close()


def _running(database: Database) -> int:
    with database.read() as connection:
        query = select(func.count()).select_from(jobs).where(jobs.c.state == JobState.RUNNING)
        return int(connection.execute(query).scalar_one())
