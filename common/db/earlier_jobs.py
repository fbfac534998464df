"""Earlier jobs that new ones are made of, many at once: their results as inputs, and what is tried again."""

from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Connection, Row, select

from common.db.tables import images, job_requests, jobs
from common.db.types import now
from common.domain.job import AcceptedRequest, InputRef, StoredImage
from common.domain.lifecycle import JobState
from common.domain.params import EditParams


@dataclass(frozen=True, slots=True)
class EarlierJob:
    """A job whose images may be inputs. `is_expired`: their life is over."""

    state: JobState
    is_erased: bool
    is_expired: bool
    images: dict[int, StoredImage] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class RetriedJob:
    """What a job was asked to be and told, and its notes as they now are."""

    accepted: AcceptedRequest
    params: EditParams
    notes: dict[str, Any]
    external_id: str | None


def find_earlier(connection: Connection, tenant_id: str, job_ids: Collection[str]) -> dict[str, EarlierJob]:
    """Those of these jobs, at most 10,000, that the tenant has, by id."""
    if not job_ids:
        return {}
    is_expired = (jobs.c.expires_at <= now()).label("is_expired")
    query = select(jobs.c.id, jobs.c.state, jobs.c.erased_at, is_expired)
    mine = (jobs.c.id.in_(job_ids)) & (jobs.c.tenant_id == tenant_id)
    found = {
        row.id: EarlierJob(JobState(row.state), row.erased_at is not None, bool(row.is_expired))
        for row in connection.execute(query.where(mine))
    }
    for row in connection.execute(select(images).where(images.c.job_id.in_(found))):
        image = _image(row)
        found[row.job_id].images[image.index] = image
    return found


def find_retried(connection: Connection, tenant_id: str, job_ids: Collection[str]) -> dict[str, RetriedJob]:
    """Those of these jobs, at most 10,000, that the tenant has and that were not erased, by id."""
    if not job_ids:
        return {}
    query = (
        select(job_requests, jobs.c.external_id)
        .join(jobs, jobs.c.id == job_requests.c.job_id)
        .where(jobs.c.id.in_(job_ids), jobs.c.tenant_id == tenant_id, jobs.c.erased_at.is_(None))
    )
    return {row.job_id: _retried(row) for row in connection.execute(query)}


def _retried(row: Row[Any]) -> RetriedJob:
    inputs = {role: InputRef.from_dict(members) for role, members in row.inputs.items()}
    notes = {"tags": row.tags, "metadata": row._mapping["metadata"]}
    return RetriedJob(AcceptedRequest(row.request, inputs), EditParams.from_dict(row.params), notes, row.external_id)


def _image(row: Row[Any]) -> StoredImage:
    return StoredImage(**{name: row._mapping[name] for name in StoredImage.__dataclass_fields__})
