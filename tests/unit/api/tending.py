"""Batches over the API, and the hands of a courier that tends them."""

import json
from collections.abc import Sequence
from typing import Any

from sqlalchemy import update

from common.db import batch_work
from common.db.batch_work import BatchWork, NewItem
from common.db.tables import batches, jobs
from common.db.types import after_now, now
from tests.making import make_job
from tests.unit.api.conftest import Api, Json

LEASE_SECONDS = 60
LINE_ERROR = {"pointer": "/strength", "code": "validation_error", "detail": "strength is wrong"}


def hand_in(api: Api, headers: dict[str, str] | None = None, **members: Any) -> Json:
    """An accepted batch, of one line unless told otherwise; the answer's body."""
    own = {"items": [{"prompt": "x"}]} if not members.keys() & {"items", "matrix"} else {}
    response = api.client.post("/v1/batches", json=own | members, headers=headers)
    assert response.status_code == 202, response.text
    body: Json = response.json()
    return body


def hand_in_manifest(api: Api, manifest: bytes, request: Json | None = None, **headers: str) -> Any:
    """The response to a form with this manifest."""
    data = {} if request is None else {"request": json.dumps(request)}
    files = {"manifest": ("manifest.jsonl", manifest)}
    return api.client.post("/v1/batches", data=data, files=files, headers=headers)


def look(api: Api, batch: Json) -> Json:
    """The batch as it now is."""
    response = api.client.get(f"/v1/batches/{batch['id']}")
    assert response.status_code == 200, response.text
    body: Json = response.json()
    return body


def manifest_of(api: Api, batch: Json) -> list[Json]:
    """The lines that lie in the store."""
    (data,) = [data for key, data in api.store.objects.items() if batch["id"] in key]
    return [json.loads(line) for line in data.splitlines()]


def take(api: Api, batch: Json) -> BatchWork:
    """A courier takes this batch, before any other."""
    with api.database.write() as connection:
        long_due = update(batches).where(batches.c.id == batch["id"]).values(tend_at=after_now(-3600))
        connection.execute(long_due)
        work = batch_work.take(connection, LEASE_SECONDS)
    assert work is not None
    assert work.id == batch["id"]
    return work


def reject(api: Api, batch: Json) -> None:
    """A courier finds a wrong line."""
    work = take(api, batch)
    with api.database.write() as connection:
        assert batch_work.reject(connection, work, [{"line": 0, **LINE_ERROR}], 1)


def queue(api: Api, batch: Json, custom_ids: Sequence[str | None], *, tenant_id: str = "default") -> list[str]:
    """A courier accepts the batch and queues a job for each line; None is a wrong line. The ids of the jobs."""
    work = take(api, batch)
    made = [make_job(batch_id=work.id, lane=work.lane, tenant_id=tenant_id) for name in custom_ids if name is not None]
    left = iter(made)
    items = [
        NewItem(line, name, job=next(left)) if name is not None else NewItem(line, None, error=LINE_ERROR)
        for line, name in enumerate(custom_ids)
    ]
    with api.database.write() as connection:
        assert batch_work.accept(connection, work)
        assert batch_work.insert_items(connection, work, items, LEASE_SECONDS) is not None
        assert batch_work.put_back(connection, work, 0)
    return [job.id for job in made]


def settle(api: Api, batch: Json) -> Json:
    """A courier looks whether the batch is over; the batch as it then is."""
    work = take(api, batch)
    with api.database.write() as connection:
        if work.cancel_requested:
            batch_work.note_retagged(connection, work)
        batch_work.settle_batch(connection, work)
    return look(api, batch)


def end(api: Api, job_ids: Sequence[str], state: str = "failed") -> None:
    """These jobs are over; what else that changes is left out."""
    error = {"code": "worker_lost", "detail": "lost"} if state == "failed" else None
    values = {"state": state, "error": error, "finished_at": now(), "held": None}
    with api.database.write() as connection:
        connection.execute(update(jobs).where(jobs.c.id.in_(job_ids)).values(values))
