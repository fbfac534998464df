"""Changing a job that waits: its place in the order of service, and what its owner notes on it."""

from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Connection, select, update

from common.db.flows import draw_tag, lock_flows
from common.db.moves import write_event
from common.db.tables import job_requests, jobs
from common.domain.errors import Conflict
from common.domain.fairness import Lane
from common.domain.lifecycle import JobState


@dataclass(frozen=True, slots=True)
class JobEdit:
    """What shall change; None stays as it is. `notes` are the columns `tags` and `metadata`, each as a whole.

    `scale`: see `common.domain.job.NewJob`; what another lane charges the job by.
    """

    lane: Lane | None = None
    notes: dict[str, Any] = field(default_factory=dict)
    scale: float = 1.0


def edit_job(connection: Connection, tenant_id: str, job_id: str, edit: JobEdit) -> None:
    """Change the tenant's queued job, held or not: one version and one event.

    Another lane puts it where a job submitted now would stand; its own lane leaves its place. Raises `Conflict` when
    the job is not queued (any more), and then the transaction must be rolled back.
    """
    waits = (jobs.c.id == job_id) & (jobs.c.tenant_id == tenant_id) & (jobs.c.state == JobState.QUEUED)
    values = {"version": jobs.c.version + 1} | _new_place(connection, waits, edit.lane, edit.scale)
    told = (jobs.c.id, jobs.c.tenant_id, jobs.c.version, jobs.c.state, jobs.c.attempt)
    moved = connection.execute(update(jobs).where(waits).values(values).returning(*told)).one_or_none()
    if moved is None:
        raise Conflict("the job is no longer queued; only a queued one can be changed")
    if edit.notes:
        connection.execute(update(job_requests).where(job_requests.c.job_id == job_id).values(edit.notes))
    payload = {"state": moved.state, "move": "edit", "attempt": moved.attempt, "error": None}
    write_event(connection, moved, "job.edited", payload)


def _new_place(connection: Connection, waits: Any, lane: Lane | None, scale: float) -> dict[str, Any]:
    """The columns of a job in this lane. Flows are locked before the job, as at submit; what its lane is now is only
    certain under their lock, for every change of it takes that.
    """
    if lane is None:
        return {}
    query = select(jobs.c.pool, jobs.c.tenant_id, jobs.c.lane, jobs.c.cost).where(waits)
    seen = connection.execute(query).one_or_none()
    if seen is None:
        return {}
    lock_flows(connection, pool=seen.pool, tenant_id=seen.tenant_id)
    row = connection.execute(query).one_or_none()
    if row is None or row.lane == lane:
        return {}
    tag = draw_tag(connection, pool=row.pool, tenant_id=row.tenant_id, lane=lane, cost=row.cost * scale)
    return {"lane": lane, "vtime": tag.start, "vfinish": tag.finish, "passed_over_since": None}
