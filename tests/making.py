"""Making jobs for tests, with everything that the test does not care about filled in."""

from dataclasses import replace
from typing import Any

from common.db import claims
from common.db.engine import Database
from common.db.jobs import insert_job
from common.db.workers import WorkerCard, register
from common.domain.batching import call_key, step_key
from common.domain.catalogue import Task
from common.domain.fairness import Lane
from common.domain.job import ClaimedJob, NewJob, StoredImage
from common.domain.params import EditParams, Output
from common.ids import new_id

PARAMS = EditParams(
    task=Task.TXT2IMG,
    model="stub",
    prompt="a blue square",
    negative_prompt="",
    strength=None,
    guidance_scale=7.5,
    num_inference_steps=4,
    effective_steps=4,
    num_images=1,
    seed=42,
    width=64,
    height=64,
    output=Output(),
    deterministic=False,
)


def make_job(**changes: Any) -> NewJob:
    """A new job of the default tenant; `params` may be a dict of changes to `PARAMS`."""
    params = replace(PARAMS, **changes.pop("params", {}))
    job_id = new_id("job")
    job = NewJob(
        id=job_id,
        tenant_id="default",
        pool="default",
        lane=Lane.NORMAL,
        params=params,
        inputs={},
        request={},
        step_key=step_key(params),
        call_key=call_key(params, job_id),
        cost=1.0,
        max_tries=3,
        deadline_seconds=3600,
        expires_in_seconds=3600,
    )
    return replace(job, **changes)


def submit(database: Database, **changes: Any) -> NewJob:
    """A job that stands in the queue."""
    job = make_job(**changes)
    with database.write() as connection:
        insert_job(connection, job)
    return job


def enlist(database: Database, pool: str = "default") -> str:
    """A registered worker's id."""
    card = WorkerCard(new_id("wrk"), pool, "test", 1, "cpu")
    with database.write() as connection:
        register(connection, card)
    return card.id


def claim(database: Database, worker_id: str, **changes: Any) -> list[ClaimedJob]:
    """One claim of this worker."""
    wishes = {"device": "cpu", "pool": "default", "limit": 8, "lease_seconds": 30.0, "alone": True} | changes
    with database.write() as connection:
        return claims.claim(connection, worker_id=worker_id, **wishes)


def make_image(job: ClaimedJob, index: int = 0) -> StoredImage:
    """A result that could stand in the store."""
    key = f"results/{job.tenant_id}/{job.id}/{job.fence}/{index}-abc.png"
    return StoredImage(index, key, job.params.seed_of(index), 64, 64, "image/png", 3, "ab" * 32)
