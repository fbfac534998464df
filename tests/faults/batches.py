"""Batches under faults: made over HTTP as a client does, looked at by their results, recounted from the rows."""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import httpx
from sqlalchemy import func, select

from common.db.batches import find_batch
from common.db.engine import Database
from common.db.tables import batch_items, batches, jobs
from common.domain.batch import BatchSnapshot
from tests.faults.clients import SIDE, source_png
from tests.processes.harness import eventually

DEFAULTS: dict[str, Any] = {
    "model": "stub",
    "num_inference_steps": 3,
    "width": SIDE,
    "height": SIDE,
    "strength": 1.0,
}


def upload(url: str, number: int) -> str:
    """The id of an upload of source picture `number`."""
    answer = httpx.post(
        f"{url}/v1/uploads", files={"file": ("picture.png", source_png(number), "image/png")}, timeout=60
    )
    assert answer.status_code in {200, 201}, answer.text
    return str(answer.json()["id"])


def lines(count: int, uploads: Sequence[str] = ()) -> list[dict[str, Any]]:
    """So many lines; with uploads each edits one of them, in turn."""
    made = [{"custom_id": f"img-{number:05}", "prompt": f"picture {number}", "seed": number} for number in range(count)]
    if uploads:
        made = [line | {"image": {"upload": uploads[number % len(uploads)]}} for number, line in enumerate(made)]
    return made


def send(url: str, manifest: Sequence[dict[str, Any]], key: str, **members: Any) -> httpx.Response | None:
    """The answer to `POST /v1/batches`; None when the connection ended without one."""
    defaults = DEFAULTS if "image" in manifest[0] else {n: v for n, v in DEFAULTS.items() if n != "strength"}
    request = json.dumps({"defaults": defaults, **members}).encode()
    text = "".join(json.dumps(line) + "\n" for line in manifest).encode()
    files = {
        "request": ("request.json", request, "application/json"),
        "manifest": ("manifest.jsonl", text, "application/jsonl"),
    }
    try:
        return httpx.post(f"{url}/v1/batches", files=files, headers={"Idempotency-Key": key}, timeout=120)
    except httpx.TransportError:
        return None


def look(url: str, batch_id: str) -> dict[str, Any]:
    """The batch as it is answered now."""
    answer = httpx.get(f"{url}/v1/batches/{batch_id}", timeout=60)
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


def until_status(url: str, batch_id: str, *statuses: str, seconds: float = 120.0) -> dict[str, Any]:
    """The batch once it has one of these."""

    def there() -> dict[str, Any] | None:
        batch = look(url, batch_id)
        return batch if batch["status"] in statuses else None

    found = eventually(there, seconds=seconds, what=f"{batch_id} to be {' or '.join(statuses)}")
    assert found is not None
    return found


def results(url: str, batch_id: str) -> list[dict[str, Any]]:
    """All result lines, as they are streamed."""
    with httpx.stream("GET", f"{url}/v1/batches/{batch_id}/results", timeout=120) as answer:
        assert answer.status_code == 200
        return [json.loads(line) for line in answer.iter_lines()]


def recount(database: Database, batch_id: str) -> tuple[BatchSnapshot, dict[str, int]]:
    """The batch as it is answered, and what its rows say when they are counted one by one, at one moment."""
    with database.engine.connect().execution_options(isolation_level="REPEATABLE READ") as connection:
        tenant = connection.execute(select(batches.c.tenant_id).where(batches.c.id == batch_id)).scalar_one()
        told = find_batch(connection, tenant, batch_id)
        states = connection.execute(select(jobs.c.state).where(jobs.c.batch_id == batch_id)).scalars().all()
        wrong = select(func.count()).select_from(batch_items)
        failed = connection.execute(
            wrong.where(batch_items.c.batch_id == batch_id, batch_items.c.error.is_not(None))
        ).scalar_one()
    assert told is not None
    counted = Counter(states)
    waiting = told.total - len(states) - failed
    return told, {
        "total": told.total,
        "queued": counted["queued"] + (0 if told.state.is_terminal else waiting),
        "running": counted["running"],
        "succeeded": counted["succeeded"],
        "failed": counted["failed"] + failed,
        "canceled": counted["canceled"] + (waiting if told.state == "canceled" else 0),
    }


def assert_recount(database: Database, batch_id: str) -> None:
    """Every count equals the recount of that moment, and they add up."""
    told, counted = recount(database, batch_id)
    counts = asdict(told.counts)
    assert counts == counted
    assert_adds_up(counts)


def assert_adds_up(counts: dict[str, int]) -> None:
    """`total` is the sum of the others."""
    assert counts["total"] == sum(value for name, value in counts.items() if name != "total"), counts


def rows_of(database: Database) -> dict[str, int]:
    """How many batches, items and jobs there are."""
    with database.read() as connection:
        return {
            table.name: connection.execute(select(func.count()).select_from(table)).scalar_one()
            for table in (batches, batch_items, jobs)
        }
