"""The rows of a chunk of a batch: items with their jobs, and all that belongs to these, in a handful of statements."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from itertools import groupby
from typing import Any

from sqlalchemy import Connection

from common.db.bulk import insert_rows
from common.db.documents import ParamsWriter
from common.db.flows import draw_tags
from common.db.job_rows import bulk_cold_row, event_row, hot_row
from common.db.objects import keep_inputs
from common.db.tables import batch_items, intakes, job_events, job_requests, jobs, object_refs
from common.db.types import read_clock
from common.domain.fairness import Tag
from common.domain.job import NewJob
from common.domain.lifecycle import Hold


@dataclass(frozen=True, slots=True)
class NewItem:
    """A line of a batch on its way into the database: with its job, or with why there is none.

    `urls`, by role: images that must be fetched before the job may be claimed. `error` is a problem document.
    """

    line: int
    custom_id: str | None
    job: NewJob | None = None
    urls: Mapping[str, str] = field(default_factory=dict)
    error: dict[str, Any] | None = None


def insert_chunk(
    connection: Connection,
    batch_id: str,
    tenant_id: str,
    items: Sequence[NewItem],
    *,
    is_paused: bool,
    is_canceled: bool,
) -> dict[str, int]:
    """Items and, unless the batch `is_canceled`, their jobs, in the order of the lines; the claimable ones by pool.

    The batch's row must be locked. Flows are locked in order, then the objects.
    """
    working = [] if is_canceled else [item for item in items if item.job is not None]
    new = [item.job for item in working if item.job is not None]
    clock = read_clock(connection)
    tags = _draw(connection, new)
    holds = {job.id: _hold(item, is_paused=is_paused) for item, job in zip(working, new, strict=True)}
    insert_rows(connection, jobs, [_hot(job, batch_id, tags[job.id], holds[job.id], clock) for job in new])
    writer = ParamsWriter()
    insert_rows(connection, job_requests, [bulk_cold_row(job, writer) for job in new])
    insert_rows(connection, job_events, [event_row(job) | {"created_at": clock} for job in new])
    _refer(connection, tenant_id, new)
    _await(connection, working, clock)
    standing = {job.id for job in new}
    insert_rows(connection, batch_items, [_item_row(batch_id, tenant_id, item, standing) for item in items])
    return dict(Counter(job.pool for job in new if holds[job.id] is None))


def _draw(connection: Connection, new: Sequence[NewJob]) -> dict[str, Tag]:
    """The tags of all, flow by flow in the order in which flows are locked, within one in the order of the lines."""
    found: dict[str, Tag] = {}
    for flow, group in groupby(sorted(new, key=_flow), key=_flow):
        own = list(group)
        costs = [job.cost * job.scale for job in own]
        pool, owner, _ = flow
        tags = draw_tags(connection, pool=pool, tenant_id=owner, lane=own[0].lane, costs=costs)
        found |= {job.id: tag for job, tag in zip(own, tags, strict=True)}
    return found


def _flow(job: NewJob) -> tuple[str, str, str]:
    return job.pool, job.tenant_id, job.lane


def _hold(item: NewItem, *, is_paused: bool) -> Hold | None:
    if item.urls:
        return Hold.INTAKE
    return Hold.PAUSED if is_paused else None


def _hot(job: NewJob, batch_id: str, tag: Tag, held: Hold | None, clock: datetime) -> dict[str, Any]:
    row = hot_row(job)
    row["vtime"] = tag.start
    row["vfinish"] = tag.finish
    row["held"] = held
    row["created_at"] = clock
    row["deadline_at"] = clock + timedelta(seconds=job.deadline_seconds)
    row["batch_id"] = batch_id
    return row


def _refer(connection: Connection, tenant_id: str, new: Sequence[NewJob]) -> None:
    given = [(job, role, reference) for job in new for role, reference in job.inputs.items()]
    keep_inputs(connection, tenant_id, {reference.key: reference for _, _, reference in given}.values())
    rows = [
        {"object_key": reference.key, "job_id": job.id, "tenant_id": tenant_id, "role": role}
        for job, role, reference in given
    ]
    insert_rows(connection, object_refs, rows)


def _await(connection: Connection, working: Sequence[NewItem], clock: datetime) -> None:
    rows = [
        {"job_id": item.job.id, "role": role, "tenant_id": item.job.tenant_id, "url": url}
        | {"next_at": clock, "created_at": clock}
        for item in working
        if item.job is not None
        for role, url in item.urls.items()
    ]
    insert_rows(connection, intakes, rows)


def _item_row(batch_id: str, tenant_id: str, item: NewItem, standing: set[str]) -> dict[str, Any]:
    return {
        "batch_id": batch_id,
        "line": item.line,
        "tenant_id": tenant_id,
        "custom_id": item.custom_id,
        "job_id": item.job.id if item.job is not None and item.job.id in standing else None,
        "error": item.error,
    }
