"""What a worker does with jobs: claim, join, renew, finish, fail, hand back. Every write carries the fence."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Row, func, insert, select, update

from common.db.chains import done_steps
from common.db.choosing import Company, choose, look_ahead, pass_over
from common.db.moves import end_attempt, holds, move_jobs, return_job, write_event
from common.db.tables import (
    attempts,
    images,
    job_requests,
    jobs,
    object_refs,
    objects,
    workers,
)
from common.db.types import after_now, now
from common.db.usage import Used
from common.domain.affinity import NO_AFFINITY, Affinity, preferred
from common.domain.fairness import Lane
from common.domain.job import ClaimedJob, DoneStep, InputRef, StoredImage
from common.domain.lifecycle import CANCEL, CLAIM, FAIL, RELEASE, RETRY, SUCCEED, JobState, Outcome
from common.domain.params import EditParams
from common.domain.retry import TryAgain

_UNREADABLE_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class Held:
    """A job that this worker holds, and what is wished of it."""

    job_id: str
    fence: int
    cancel_requested: bool
    deadline_passed: bool


def claim(
    connection: Connection,
    *,
    worker_id: str,
    device: str,
    pool: str,
    limit: int,
    lease_seconds: float,
    alone: bool,
    company: Company = "call",
    urgent: bool = False,
    affinity: Affinity = NO_AFFINITY,
) -> list[ClaimedJob]:
    """The first claimable job in order and up to `limit - 1` others of its company, in one statement.

    `affinity`: what it may take instead of the first, see `common.domain.affinity`; that costs one look before. An
    urgent claim has none.

    `company`: who may come along, jobs that share its diffusers call or, more widely, its forward passes. `urgent`:
    only jobs of the lane `high`, out of order, for a worker that has no room for others.

    `alone`: the worker holds nothing. A job that must run by itself comes without company, and to nobody else: a worker
    that holds something gets nothing while such a job is first, so that it empties and can take it. A job that this
    release cannot read goes back for a while; its deadline ends it.
    """
    first = [] if urgent or affinity.is_none else look_ahead(connection, pool)
    wanted = [job.id for job in preferred(first, affinity)]
    chosen = choose(pool, limit, alone=alone, company=company, urgent=urgent, preferred=wanted)
    values = {
        "worker_id": worker_id,
        "lease_until": after_now(lease_seconds),
        "fence": jobs.c.fence + 1,
        "tries": jobs.c.tries + 1,
    }
    moved = move_jobs(connection, CLAIM, jobs.c.id.in_(chosen), values)
    if not moved:
        return []
    rows = _claimed_rows(connection, [row.id for row in moved])
    _open_attempts(connection, worker_id, device, rows)
    if any(row.id in wanted for row in rows):
        pass_over(connection, first[0].id)
        _advance(connection, worker_id, first[0].vtime)
    elif not urgent:
        _advance(connection, worker_id, rows[0].vtime)
    done = done_steps(connection, [row.id for row in rows if row.fence > 1])
    return [job for row in rows if (job := _read(connection, row, done.get(row.id, ()))) is not None]


def join(connection: Connection, job_id: str, fence: int, device: str) -> bool:
    """The job reached the device; saying so again changes nothing. False when it is no longer ours."""
    this_attempt = (attempts.c.job_id == job_id) & (attempts.c.fence == fence)
    has_joined = select(attempts.c.fence).where(this_attempt, attempts.c.joined_at.is_not(None)).exists()
    ours = holds(job_id, fence) & (jobs.c.state == JobState.RUNNING)
    statement = (
        update(jobs)
        .where(ours, ~has_joined)
        .values(
            version=jobs.c.version + 1,
            attempt=jobs.c.attempt + 1,
            device=device,
            started_at=func.coalesce(jobs.c.started_at, now()),
        )
        .returning(jobs.c.id, jobs.c.tenant_id, jobs.c.version, jobs.c.attempt)
    )
    row = connection.execute(statement).one_or_none()
    if row is None:
        return connection.execute(select(jobs.c.id).where(ours)).one_or_none() is not None
    connection.execute(update(attempts).where(this_attempt).values(joined_at=now()))
    write_event(connection, row, "job.started", {"state": JobState.RUNNING, "attempt": row.attempt, "device": device})
    return True


def waited_seconds(connection: Connection, job_ids: list[str]) -> dict[str, float]:
    """Seconds since these jobs were submitted, by the database's clock: a worker's own may be wrong."""
    query = select(jobs.c.id, jobs.c.created_at, now().label("database_now")).where(jobs.c.id.in_(job_ids))
    return {row.id: (row.database_now - row.created_at).total_seconds() for row in connection.execute(query)}


def finish(
    connection: Connection,
    job: ClaimedJob,
    results: list[StoredImage],
    metrics: dict[str, Any],
    grid: StoredImage | None = None,
    warnings: Sequence[dict[str, str]] = (),
    device_seconds: float = 0.0,
) -> bool:
    """Images, their objects, the transition and its event, in one transaction. False when the job is not ours.

    `warnings` are what only the loaded model could tell; they join those of the submit. `device_seconds`: here and
    below, what this attempt took of the device, for the tenant's account.
    """
    used = Used(len(results), device_seconds)
    if not move_jobs(connection, SUCCEED, holds(job.id, job.fence), {"metrics": metrics}, used):
        return False
    own = {"job_id": job.id, "tenant_id": job.tenant_id}
    connection.execute(insert(images), [own | {"fence": job.fence} | _columns(image) for image in results])
    connection.execute(insert(objects), [_object_row(job, image) for image in results])
    connection.execute(insert(object_refs), [own | {"object_key": image.key, "role": "result"} for image in results])
    if grid is not None:
        connection.execute(insert(objects).values(_object_row(job, grid)))
        connection.execute(insert(object_refs).values(own | {"object_key": grid.key, "role": "grid"}))
    if warnings:
        _add_warnings(connection, job.id, warnings)
    end_attempt(connection, job.id, job.fence, Outcome.SUCCEEDED)
    return True


def fail(
    connection: Connection, job_id: str, fence: int, error: dict[str, Any], *, device_seconds: float = 0.0
) -> bool:
    """The job failed for good. False when it is no longer ours."""
    used = Used(device_seconds=device_seconds)
    if not move_jobs(connection, FAIL, holds(job_id, fence), {"error": error}, used):
        return False
    end_attempt(connection, job_id, fence, Outcome.FAILED, error["code"])
    return True


def cancel_running(connection: Connection, job_id: str, fence: int, *, device_seconds: float = 0.0) -> bool:
    """The device let go of a job whose cancellation was wished. False when it is no longer ours."""
    if not move_jobs(connection, CANCEL, holds(job_id, fence), used=Used(device_seconds=device_seconds)):
        return False
    end_attempt(connection, job_id, fence, Outcome.CANCELED)
    return True


def hand_back(
    connection: Connection,
    job_id: str,
    fence: int,
    decision: TryAgain,
    code: str | None = None,
    *,
    crashes: int = 0,
    device_seconds: float = 0.0,
) -> bool:
    """Put the job back into the queue (or where its wish or deadline sends it). False when it is no longer ours.

    `crashes` is 1 when the job, alone in its process, took the device down.
    """
    values: dict[str, Any] = {"solo": jobs.c.solo | decision.solo, "solo_crashes": jobs.c.solo_crashes + crashes}
    if decision.refund:
        values["tries"] = jobs.c.tries - 1
    if decision.delay_seconds > 0:
        values |= {"held": "delayed", "run_after": after_now(decision.delay_seconds)}
    move = RELEASE if decision.refund else RETRY
    if not return_job(connection, move, holds(job_id, fence), values, Used(device_seconds=device_seconds)):
        return False
    end_attempt(connection, job_id, fence, Outcome.RELEASED if decision.refund else Outcome.RETRIED, code)
    return True


def has_succeeded(connection: Connection, job_id: str, fence: int) -> bool:
    """Whether this attempt's success stands: the answer to a commit whose outcome was not seen."""
    won = holds(job_id, fence) & (jobs.c.state == JobState.SUCCEEDED)
    return connection.execute(select(jobs.c.id).where(won)).one_or_none() is not None


def look_at_held(connection: Connection, worker_id: str) -> list[Held]:
    """The running jobs of this worker and what is wished of them."""
    mine = (jobs.c.worker_id == worker_id) & (jobs.c.state == JobState.RUNNING)
    return [_held(row) for row in connection.execute(select(*_HELD_COLUMNS).where(mine))]


def renew(connection: Connection, worker_id: str, job_ids: list[str], lease_seconds: float) -> list[Held]:
    """Renew the leases of these jobs; what is not in the answer is no longer ours.

    Only named jobs are renewed: a claim whose commit was not seen must lapse, not live for ever.
    """
    mine = (jobs.c.worker_id == worker_id) & (jobs.c.state == JobState.RUNNING) & jobs.c.id.in_(job_ids)
    statement = update(jobs).where(mine).values(lease_until=after_now(lease_seconds)).returning(*_HELD_COLUMNS)
    return [_held(row) for row in connection.execute(statement)]


_HELD_COLUMNS = (
    jobs.c.id,
    jobs.c.fence,
    jobs.c.cancel_requested_at,  # plain columns: SQLite 3.40 gets `IS NOT NULL` in a RETURNING wrong on some plans
    jobs.c.deadline_at,
    now().label("database_now"),
)


def _held(row: Row[Any]) -> Held:
    is_late = row.deadline_at <= row.database_now
    return Held(row.id, row.fence, row.cancel_requested_at is not None, is_late)


def _claimed_rows(connection: Connection, job_ids: list[str]) -> list[Row[Any]]:
    columns = (jobs, job_requests.c.params, job_requests.c.inputs)
    query = select(*columns).join(job_requests, job_requests.c.job_id == jobs.c.id).where(jobs.c.id.in_(job_ids))
    return sorted(connection.execute(query), key=lambda row: (row.vtime, row.id))


def _open_attempts(connection: Connection, worker_id: str, device: str, rows: list[Row[Any]]) -> None:
    opened = [{"job_id": row.id, "fence": row.fence, "tenant_id": row.tenant_id} for row in rows]
    connection.execute(insert(attempts).values(worker_id=worker_id, device=device), opened)


def _advance(connection: Connection, worker_id: str, vtime: float) -> None:
    """Virtual time follows the first job in order, never its companions, nor one that was taken before it."""
    behind = (workers.c.id == worker_id) & (workers.c.served_vtime < vtime)
    connection.execute(update(workers).where(behind).values(served_vtime=vtime))


def _read(connection: Connection, row: Row[Any], done_steps: tuple[DoneStep, ...]) -> ClaimedJob | None:
    try:
        return _claimed(row, done_steps)
    except (KeyError, TypeError, ValueError):  # written by a release that knows more than we do
        hand_back(connection, row.id, row.fence, TryAgain(_UNREADABLE_SECONDS, refund=True), "unreadable")
        return None


def _claimed(row: Row[Any], done_steps: tuple[DoneStep, ...]) -> ClaimedJob:
    return ClaimedJob(
        id=row.id,
        tenant_id=row.tenant_id,
        fence=row.fence,
        tries=row.tries,
        max_tries=row.max_tries,
        solo=row.solo,
        solo_crashes=row.solo_crashes,
        created_at=row.created_at,
        deadline_at=row.deadline_at,
        params=EditParams.from_dict(row.params),
        inputs={role: InputRef.from_dict(members) for role, members in row.inputs.items()},
        done_steps=done_steps,
        lane=Lane(row.lane),
    )


def _add_warnings(connection: Connection, job_id: str, warnings: Sequence[dict[str, str]]) -> None:
    """They may quote the prompt, so a job that was erased meanwhile gets none."""
    query = select(job_requests.c.warnings).join(jobs, jobs.c.id == job_requests.c.job_id)
    known = connection.execute(query.where(jobs.c.id == job_id, jobs.c.erased_at.is_(None))).scalar_one_or_none()
    if known is not None:
        mine = job_requests.c.job_id == job_id
        connection.execute(update(job_requests).where(mine).values(warnings=[*known, *warnings]))


def _columns(image: StoredImage) -> dict[str, Any]:
    return {name: getattr(image, name) for name in StoredImage.__dataclass_fields__}


def _object_row(job: ClaimedJob, image: StoredImage) -> dict[str, Any]:
    return {
        "key": image.key,
        "tenant_id": job.tenant_id,
        "state": "live",
        "kind": "result",
        "sha256": image.sha256,
        "bytes": image.bytes,
        "width": image.width,
        "height": image.height,
    }
