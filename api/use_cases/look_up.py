"""Looking at jobs."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection

from api.dependencies import Services
from common.db.jobs import find_job, list_jobs
from common.db.tenants import Caller
from common.domain.errors import NotFound
from common.domain.outlook import Outlook
from common.domain.snapshot import JobSnapshot
from common.ids import is_id


@dataclass(frozen=True, slots=True)
class Page:
    """Some jobs, newest first, and whether there are older ones."""

    jobs: list[JobSnapshot]
    has_more: bool


def require_job(connection: Connection, tenant_id: str, job_id: str) -> JobSnapshot:
    """The tenant's job. Raises `NotFound`, alike for malformed, foreign and unknown ids, `gone` for an erased one."""
    job = find_job(connection, tenant_id, job_id) if is_id(job_id, "job") else None
    if job is None:
        raise NotFound("there is no such job")
    if job.erased_at is not None:
        raise NotFound("the job has been erased", code="gone")
    return job


def look_at_job(services: Services, caller: Caller, job_id: str) -> tuple[JobSnapshot, Outlook]:
    """The job as it is now, and what it may expect; raises `NotFound`."""
    with services.database.read() as connection:
        job = require_job(connection, caller.tenant_id, job_id)
    return job, services.outlooks.of(job)


def look_at_jobs(
    services: Services, caller: Caller, *, limit: int, after: str | None, filters: Mapping[str, Any]
) -> Page:
    """One page of the caller's jobs, older than the id `after`; a filter that is None does not filter."""
    wanted = {column: value for column, value in filters.items() if value is not None}
    with services.database.read() as connection:
        found = list_jobs(connection, caller.tenant_id, limit=limit + 1, after=after, filters=wanted)
    return Page(found[:limit], has_more=len(found) > limit)
