"""Batches for tests of the courier: handed in as the API does it, tended turn by turn, looked at."""

import hashlib
import json
from collections.abc import Callable, Iterable
from typing import Any

from sqlalchemy import select, update

from common.db.batches import NewBatch, announce_manifest, find_batch, insert_batch
from common.db.engine import Database
from common.db.jobs import find_job
from common.db.tables import batch_items, batches, jobs
from common.db.types import after_now
from common.db.uploads import insert_ready
from common.domain.batch import BatchSnapshot
from common.domain.fairness import Lane
from common.domain.job import InputRef
from common.domain.snapshot import JobSnapshot
from common.ids import new_id
from common.storage.keys import input_key, manifest_key
from courier.batches import tend_batch
from courier.tools import Tools

DEFAULTS = {"model": "demo", "prompt": "a red circle", "num_inference_steps": 10}

Maker = Callable[..., Tools]


class Killed(BaseException):
    """The courier dies here."""


def text_of(lines: Iterable[dict[str, Any] | str]) -> bytes:
    """A manifest; a line that is text stands in it as it is."""
    return "\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines).encode() + b"\n"


def hand_in(tools: Tools, lines: list[Any], *, retry_of: str | None = None, **request: Any) -> str:
    """A batch that waits to be validated."""
    batch_id, data = new_id("bat"), text_of(lines)
    key = manifest_key("default", batch_id)
    new = NewBatch(
        id=batch_id,
        tenant_id="default",
        name=None,
        lane=Lane.LOW,
        total=len(lines),
        manifest_key=key,
        request={"defaults": DEFAULTS, "on_invalid": "reject", "metadata": {}} | request,
        retry_of=retry_of,
    )
    with tools.database.write() as connection:
        announce_manifest(connection, "default", key, len(data), hashlib.sha256(data).hexdigest())
        insert_batch(connection, new)
    tools.store.put(key, data, "application/jsonl")
    return batch_id


def make_due(database: Database, **columns: Any) -> None:
    """Every batch that is not over may be taken now."""
    values = {"tend_at": after_now(-1), "worker_id": None, "lease_until": None} | columns
    with database.write() as connection:
        connection.execute(update(batches).where(batches.c.finished_at.is_(None)).values(values))


def tend(tools: Tools, chunk: int = 5000, turns: int = 3) -> None:
    """So many turns, without the pauses between them."""
    for _ in range(turns):
        make_due(tools.database)
        tend_batch(tools, chunk=chunk)


def look(tools: Tools, batch_id: str) -> BatchSnapshot:
    """The batch as it is now."""
    with tools.database.read() as connection:
        found = find_batch(connection, "default", batch_id)
    assert found is not None
    assert found.counts.total == found.total
    return found


def items_of(tools: Tools, batch_id: str) -> list[Any]:
    """Its items in order."""
    query = select(batch_items).where(batch_items.c.batch_id == batch_id).order_by(batch_items.c.line)
    with tools.database.read() as connection:
        return list(connection.execute(query))


def jobs_of(tools: Tools, batch_id: str) -> list[JobSnapshot]:
    """Its jobs in the order of the lines."""
    ids = [item.job_id for item in items_of(tools, batch_id) if item.job_id]
    with tools.database.read() as connection:
        found = [find_job(connection, "default", job_id) for job_id in ids]
    return [job for job in found if job is not None]


def count_jobs(tools: Tools) -> int:
    """Jobs of whatever batch."""
    with tools.database.read() as connection:
        return len(list(connection.execute(select(jobs.c.id))))


def upload(tools: Tools, width: int = 96, height: int = 48, seconds: float = 3600) -> str:
    """An upload that is ready."""
    sha256 = hashlib.sha256(f"{width}x{height}".encode()).hexdigest()
    reference = InputRef(input_key("default", sha256), sha256, 3, width, height)
    upload_id = new_id("upl")
    with tools.database.write() as connection:
        insert_ready(connection, "default", upload_id, reference, life_seconds=seconds)
    return upload_id
