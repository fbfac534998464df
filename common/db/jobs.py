"""What a tenant does with jobs: submit, look, list, cancel. Every call takes the tenant."""

from typing import Any

from sqlalchemy import Connection, Row, Select, insert, literal, select, tuple_

from common.db.cancels import cancel_unjoined, wish_cancel
from common.db.filtering import matching
from common.db.flows import draw_tag, give_back_tail, lock_flow_of
from common.db.job_rows import cold_row, event_row, hot_row
from common.db.moves import move_jobs
from common.db.objects import refer_to_input
from common.db.tables import attempts, images, job_events, job_progress, job_requests, jobs, object_refs, objects
from common.db.types import after_now
from common.domain.job import GRID_INDEX, AcceptedRequest, InputRef, NewJob, Progress, StoredImage
from common.domain.lifecycle import CANCEL_QUEUED, JobState
from common.domain.params import EditParams
from common.domain.snapshot import JobSnapshot
from common.storage.keys import content_type_of


def insert_job(connection: Connection, job: NewJob) -> None:
    """The job's rows, its tag in the order of service, its references to inputs, and its first event."""
    seconds = job.cost * job.scale
    tag = draw_tag(connection, pool=job.pool, tenant_id=job.tenant_id, lane=job.lane, cost=seconds)
    timed = {"vtime": tag.start, "vfinish": tag.finish, "deadline_at": after_now(job.deadline_seconds)}
    connection.execute(insert(jobs).values(hot_row(job) | timed))
    connection.execute(insert(job_requests).values(cold_row(job)))
    for role, reference in job.inputs.items():
        refer_to_input(connection, job.tenant_id, job.id, role, reference)
    connection.execute(insert(job_events).values(event_row(job)))


def find_job(connection: Connection, tenant_id: str, job_id: str) -> JobSnapshot | None:
    """The job as it is now, or None when this tenant has no such job."""
    row = connection.execute(_snapshots().where(jobs.c.id == job_id, jobs.c.tenant_id == tenant_id)).one_or_none()
    return None if row is None else _with_results(connection, [row])[0]


def find_jobs(connection: Connection, job_ids: list[str]) -> list[JobSnapshot]:
    """These jobs as they are now, of whatever tenant; unknown ids are left out."""
    return _with_results(connection, list(connection.execute(_snapshots().where(jobs.c.id.in_(job_ids)))))


def list_jobs(
    connection: Connection, tenant_id: str, *, limit: int, after: str | None, filters: dict[str, Any]
) -> list[JobSnapshot]:
    """The tenant's jobs, newest first, at most `limit`, older than the id `after`; erased ones are left out.

    `filters`: see `common.db.filtering`.
    """
    mine = (jobs.c.tenant_id == tenant_id) & jobs.c.erased_at.is_(None)
    # The ids first, by an index of jobs alone: joined with all that belongs to jobs, the planner may well walk through
    # every newer job of all tenants to come to a page of an old batch.
    page = select(jobs.c.id).where(mine, *matching(filters)).limit(limit)
    if "batch" in filters:
        page = _of_batch(page, filters["batch"], after).order_by(jobs.c.batch_id.desc(), jobs.c.id.desc())
    else:
        page = page.where(jobs.c.id < after) if after is not None else page
        page = page.order_by(jobs.c.id.desc())
    ids = page.subquery("page")
    query = _snapshots().join(ids, ids.c.id == jobs.c.id).order_by(jobs.c.id.desc())
    return _with_results(connection, list(connection.execute(query)))


def _of_batch(page: Select[Any], batch_id: str, after: str | None) -> Select[Any]:
    """From the place of `after` in `ix_jobs_of_batch` to the beginning of the batch. Bounds in place of `=`, so that no
    other index has the order of the page: PostgreSQL takes jobs of a batch to be spread evenly over all ids.
    """
    page = page.where(jobs.c.batch_id >= batch_id)
    if after is None:
        return page.where(jobs.c.batch_id <= batch_id)
    return page.where(tuple_(jobs.c.batch_id, jobs.c.id) < tuple_(literal(batch_id), literal(after)))


def cancel_job(connection: Connection, tenant_id: str, job_id: str) -> None:
    """At once if no device has started it, otherwise a wish that its worker sees within a second.

    A finished job stays as it is. A queued one that was the last of its flow is not charged to it.
    """
    mine = (jobs.c.id == job_id) & (jobs.c.tenant_id == tenant_id)
    is_locked = lock_flow_of(connection, mine)
    wish_cancel(connection, mine)
    if move_jobs(connection, CANCEL_QUEUED, mine):
        if is_locked:
            give_back_tail(connection, job_id)
        return
    cancel_unjoined(connection, mine)


def find_request(connection: Connection, tenant_id: str, job_id: str) -> AcceptedRequest | None:
    """What the tenant's job was asked to be, or None when there is no such job."""
    mine = (job_requests.c.job_id == job_id) & (job_requests.c.tenant_id == tenant_id)
    query = select(job_requests.c.request, job_requests.c.inputs).where(mine)
    row = connection.execute(query).one_or_none()
    if row is None:
        return None
    return AcceptedRequest(row.request, {role: InputRef.from_dict(members) for role, members in row.inputs.items()})


def find_image(connection: Connection, tenant_id: str, job_id: str, index: int) -> StoredImage | None:
    """Result `index` of the tenant's job, or None."""
    mine = (images.c.job_id == job_id) & (images.c.tenant_id == tenant_id) & (images.c.index == index)
    row = connection.execute(select(images).where(mine)).one_or_none()
    return None if row is None else _stored_image(row)


def find_preview(connection: Connection, tenant_id: str, job_id: str) -> bytes | None:
    """The newest preview (JPEG) of the tenant's running job, or None."""
    query = (
        select(job_progress.c.preview)
        .join(jobs, (jobs.c.id == job_progress.c.job_id) & (jobs.c.fence == job_progress.c.fence))
        .where(jobs.c.id == job_id, jobs.c.tenant_id == tenant_id, jobs.c.state == JobState.RUNNING)
    )
    return connection.execute(query).scalar_one_or_none()


def _snapshots() -> Any:
    progress = (job_progress.c.job_id == jobs.c.id) & (job_progress.c.fence == jobs.c.fence)
    return (
        select(
            jobs,
            job_requests.c.params,
            job_requests.c.warnings,
            job_requests.c.tags,
            job_requests.c.metadata.label("own_metadata"),
            job_progress.c.stage,
            job_progress.c.step,
            job_progress.c.steps,
            job_progress.c.seq,
            job_progress.c.preview_seq,
            attempts.c.joined_at,
        )
        .join(job_requests, job_requests.c.job_id == jobs.c.id)
        .outerjoin(job_progress, progress)
        .outerjoin(attempts, (attempts.c.job_id == jobs.c.id) & (attempts.c.fence == jobs.c.fence))
    )


def _with_results(connection: Connection, rows: list[Row[Any]]) -> list[JobSnapshot]:
    """The snapshots of these rows; only what has succeeded has results to look for."""
    done = [row.id for row in rows if row.state == JobState.SUCCEEDED]
    results, grids = (_images_of(connection, done), _grids_of(connection, done)) if done else ({}, {})
    return [_snapshot(row, results.get(row.id, []), grids.get(row.id)) for row in rows]


def _images_of(connection: Connection, job_ids: list[str]) -> dict[str, list[StoredImage]]:
    found: dict[str, list[StoredImage]] = {job_id: [] for job_id in job_ids}
    query = select(images).where(images.c.job_id.in_(job_ids)).order_by(images.c.job_id, images.c.index)
    for row in connection.execute(query):
        found[row.job_id].append(_stored_image(row))
    return found


def _stored_image(row: Row[Any]) -> StoredImage:
    members = row._mapping
    return StoredImage(**{name: members[name] for name in StoredImage.__dataclass_fields__})


def _grids_of(connection: Connection, job_ids: list[str]) -> dict[str, StoredImage]:
    query = (
        select(objects, object_refs.c.job_id)
        .join(object_refs, object_refs.c.object_key == objects.c.key)
        .where(object_refs.c.job_id.in_(job_ids), object_refs.c.role == "grid")
    )
    return {row.job_id: _grid(row) for row in connection.execute(query)}


def _grid(row: Row[Any]) -> StoredImage:
    kind = content_type_of(row.key)
    return StoredImage(GRID_INDEX, row.key, 0, row.width, row.height, kind, row.bytes, row.sha256)


def _snapshot(row: Row[Any], results: list[StoredImage], grid: StoredImage | None) -> JobSnapshot:
    progress = _progress(row)
    return JobSnapshot(
        id=row.id,
        tenant_id=row.tenant_id,
        pool=row.pool,
        state=JobState(row.state),
        held=row.held,
        version=row.version,
        attempt=row.attempt,
        lane=row.lane,
        vtime=row.vtime,
        cost=row.cost,
        device=row.device,
        created_at=row.created_at,
        started_at=row.started_at,
        joined_at=row.joined_at,
        finished_at=row.finished_at,
        deadline_at=row.deadline_at,
        expires_at=row.expires_at,
        erased_at=row.erased_at,
        cancel_requested=row.cancel_requested_at is not None,
        params=EditParams.from_dict(row.params),
        warnings=row.warnings,
        error=row.error,
        metrics=row.metrics or {},
        images=results,
        grid=grid,
        progress=progress,
        progress_seq=(row.seq or 0) if progress else 0,
        preview_tag=f'"{row.fence}.{row.preview_seq}"' if progress and row.preview_seq else None,
        batch_id=row.batch_id,
        retry_of=row.retry_of,
        external_id=row.external_id,
        tags=row.tags,
        metadata=row.own_metadata,
    )


def _progress(row: Row[Any]) -> Progress | None:
    if JobState(row.state) is not JobState.RUNNING:
        return None
    if row.joined_at is None or row.stage is None:
        return Progress("preparing", 0, 0)
    return Progress(row.stage, row.step, row.steps)
