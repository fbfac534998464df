"""Making batches for tests, as the API hands them in and a courier inserts them."""

import hashlib
from collections.abc import Sequence
from typing import Any

from sqlalchemy import update

from common.db import batch_work
from common.db.batch_work import BatchWork, NewItem
from common.db.batches import NewBatch, insert_batch
from common.db.claims import finish, join
from common.db.engine import Database
from common.db.tables import batches
from common.db.types import after_now
from common.domain.errors import problem_document
from common.domain.fairness import Lane
from common.domain.job import StoredImage
from common.ids import new_id
from tests.making import claim, make_job

WRONG = problem_document("validation_error", "strength is wrong")
LEASE_SECONDS = 60.0


def make_batch(database: Database, total: int = 1, **changes: Any) -> str:
    """The id of a batch that is validating."""
    batch_id = new_id("bat")
    members: dict[str, Any] = {
        "id": batch_id,
        "tenant_id": "default",
        "name": None,
        "lane": Lane.LOW,
        "total": total,
        "manifest_key": f"manifests/default/{batch_id}.jsonl",
        "request": {"defaults": {}, "on_invalid": "skip", "metadata": {}},
    }
    with database.write() as connection:
        insert_batch(connection, NewBatch(**members | changes))
    return batch_id


def take(database: Database, batch_id: str) -> BatchWork:
    """A courier holds this batch, due or not, whoever held it before."""
    with database.write() as connection:
        free = {"tend_at": after_now(-3600), "worker_id": None, "lease_until": None}
        connection.execute(update(batches).where(batches.c.id == batch_id).values(free))
        work = batch_work.take(connection, LEASE_SECONDS)
    assert work is not None
    assert work.id == batch_id
    return work


def queue_batch(database: Database, custom_ids: Sequence[str | None], total: int | None = None, **job: Any) -> str:
    """The id of a running batch with a queued job for each of these lines; None is a wrong line."""
    batch_id = make_batch(database, total or len(custom_ids), tenant_id=job.get("tenant_id", "default"))
    work = take(database, batch_id)
    items = [
        NewItem(line, None, error=WRONG)
        if name is None
        else NewItem(line, name, job=make_job(batch_id=batch_id, lane=Lane.LOW, **job))
        for line, name in enumerate(custom_ids)
    ]
    with database.write() as connection:
        assert batch_work.accept(connection, work)
        assert batch_work.insert_items(connection, work, items, LEASE_SECONDS) is not None
    return batch_id


def develop(database: Database, worker_id: str, store: Any = None, content: bytes = b"pixels", images: int = 1) -> str:
    """A worker takes the next job and succeeds with so many images; the job's id."""
    (job,) = claim(database, worker_id, limit=1)
    made = [
        StoredImage(
            index,
            f"results/{job.tenant_id}/{job.id}/{job.fence}/{index}-ab.png",
            job.params.seed_of(index),
            64,
            64,
            "image/png",
            len(content),
            hashlib.sha256(content).hexdigest(),
        )
        for index in range(images)
    ]
    for image in made if store is not None else ():
        store.put(image.key, content, "image/png")
    with database.write() as connection:
        assert join(connection, job.id, job.fence, "cpu")
        assert finish(connection, job, made, {"run_ms": 5})
    return job.id


def settle(database: Database, batch_id: str) -> None:
    """A courier looks whether the batch is over."""
    work = take(database, batch_id)
    with database.write() as connection:
        batch_work.settle_batch(connection, work)
