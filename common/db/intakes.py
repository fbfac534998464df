"""Images given by URL, until a courier has fetched them: taken under a lease, worked off or given back.

Whoever changes a job's intakes for good locks the job's row first, so that of two couriers at one job exactly one
sees that its intake was the last. A courier's writes carry worker and attempt of its take, as a fence.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import Connection, Row, Select, delete, func, insert, literal_column, or_, select, update
from sqlalchemy.sql.dml import ReturningUpdate
from sqlalchemy.sql.elements import ColumnElement

from common.db.moves import hold_of_batch, move_jobs, write_event
from common.db.objects import refer_to_input
from common.db.tables import intakes, job_requests, jobs, pools
from common.db.types import after_now, now
from common.domain.batching import call_key, step_key
from common.domain.catalogue import Catalogue
from common.domain.errors import Invalid, Problem
from common.domain.fairness import predicted_cost
from common.domain.job import InputRef
from common.domain.lifecycle import FAIL_QUEUED, Hold, JobState
from common.domain.params import EditParams
from common.domain.remarks import SIZE_CODES, remarks
from common.domain.settling import Given, settle
from common.domain.wishes import drawn_seed, wishes_of

PAGE = 100

# Said as the index of intakes says it.
_HELD: Final = jobs.c.held == literal_column(f"'{Hold.INTAKE}'")
_AWAITS: Final = (jobs.c.state == JobState.QUEUED) & _HELD


@dataclass(frozen=True, slots=True)
class Intake:
    """An image to fetch that this courier holds; `attempt` counts this take."""

    job_id: str
    role: str
    tenant_id: str
    url: str
    attempt: int
    worker_id: str


def insert_intakes(connection: Connection, job_id: str, tenant_id: str, urls: Mapping[str, str]) -> None:
    """These images, by role, must be fetched before the job may be claimed: it is held until then.

    To be called in the transaction that inserts the job. Ring the courier after its commit.
    """
    rows = [{"job_id": job_id, "role": role, "tenant_id": tenant_id, "url": url} for role, url in urls.items()]
    if rows:
        connection.execute(insert(intakes), rows)
        connection.execute(update(jobs).where(jobs.c.id == job_id).values(held=Hold.INTAKE))


def take(connection: Connection, worker_id: str, lease_seconds: float) -> Intake | None:
    """An intake that is due and that nobody holds, now held by this courier: of a pool, in the order of service.

    So a batch of many URLs keeps nobody else's job waiting. The tags of different pools do not compare: these take
    turns by chance.
    """
    for pool in connection.execute(select(pools.c.name).order_by(func.random())).scalars().all():
        row = connection.execute(_take_first(pool, worker_id, lease_seconds)).one_or_none()
        if row is not None:
            return Intake(**row._mapping)
    return None


def retry_later(connection: Connection, intake: Intake, seconds: float, *, spend: bool = True) -> bool:
    """Give the intake back for a while; without `spend` this attempt does not count. False when it is not ours."""
    attempt = intake.attempt if spend else intake.attempt - 1
    values = {"next_at": after_now(seconds), "worker_id": None, "lease_until": None, "attempt": attempt}
    return connection.execute(update(intakes).where(_holds(intake)).values(values)).rowcount == 1


def complete(
    connection: Connection, intake: Intake, reference: InputRef, catalogue: Catalogue, *, has_alpha: bool = False
) -> str | None:
    """The image, with transparent parts or without, lies in the store. The last one of a job settles what runs.

    Returns the pool to ring then, else None: others are awaited, or the job wants no image any more. Raises `Invalid`
    when the model cannot do it with what has come; the transaction must then be rolled back.
    """
    row = _lock(connection, intake)
    if row is None:
        return None
    connection.execute(delete(intakes).where(_holds(intake)))
    refer_to_input(connection, intake.tenant_id, intake.job_id, intake.role, reference)
    inputs = {**row.inputs, intake.role: reference.as_dict()}
    request = {**row.request, intake.role: {"sha256": reference.sha256}}  # the URL may hold secrets and is spent
    connection.execute(_update_request(intake.job_id, inputs=inputs, request=request))
    if connection.execute(select(intakes.c.role).where(intakes.c.job_id == intake.job_id).limit(1)).first():
        return None
    if intake.role == "image" and not has_alpha:
        _check_mask(row.request, inputs)
    params = _settled(row, inputs, catalogue)
    connection.execute(_update_request(intake.job_id, warnings=_warnings(row, inputs, params)))
    _release(connection, intake.job_id, params, catalogue)
    return str(row.pool)


def fail(connection: Connection, intake: Intake, error: dict[str, Any]) -> bool:
    """The image cannot be had, so the job fails with this problem document. False when it is no longer ours."""
    if _lock(connection, intake) is None:
        return False
    connection.execute(delete(intakes).where(intakes.c.job_id == intake.job_id))
    return bool(move_jobs(connection, FAIL_QUEUED, (jobs.c.id == intake.job_id) & _AWAITS, {"error": error}))


def forget_intakes(connection: Connection) -> int:
    """Remove one page of intakes whose jobs await none: canceled, or ended by their deadline. Returns how many."""
    awaits_none = jobs.c.held.is_distinct_from(Hold.INTAKE)  # what has a hold is queued
    over = select(intakes.c.job_id).join(jobs, jobs.c.id == intakes.c.job_id).where(awaits_none).limit(PAGE)
    return connection.execute(delete(intakes).where(intakes.c.job_id.in_(over))).rowcount


def _take_first(pool: str, worker_id: str, lease_seconds: float) -> ReturningUpdate[Any]:
    """Walks along the index of awaited images from its head: past what is held, or waits for its next try."""
    is_free = or_(intakes.c.lease_until.is_(None), intakes.c.lease_until < now())
    is_wanted = _AWAITS & jobs.c.cancel_requested_at.is_(None) & (jobs.c.deadline_at > now())
    first = (
        select(intakes.c.job_id, intakes.c.role)
        .join(jobs, jobs.c.id == intakes.c.job_id)
        .where(jobs.c.pool == pool, is_wanted, intakes.c.next_at <= now(), is_free)
        .order_by(jobs.c.vtime, jobs.c.id)
        .limit(1)
        .with_for_update(skip_locked=True, of=intakes)
        .cte("first")
    )
    return (
        update(intakes)
        .where(intakes.c.job_id == first.c.job_id, intakes.c.role == first.c.role)
        .values(worker_id=worker_id, lease_until=after_now(lease_seconds), attempt=intakes.c.attempt + 1)
        .returning(*(intakes.c[name] for name in Intake.__dataclass_fields__))
    )


def _holds(intake: Intake) -> ColumnElement[bool]:
    return (
        (intakes.c.job_id == intake.job_id)
        & (intakes.c.role == intake.role)
        & (intakes.c.worker_id == intake.worker_id)
        & (intakes.c.attempt == intake.attempt)
    )


def _lock(connection: Connection, intake: Intake) -> Row[Any] | None:
    """The job of an intake that is still ours, locked; None when it is not, or the job awaits none (any more)."""
    job = select(jobs.c.id).where(jobs.c.id == intake.job_id, _AWAITS).with_for_update()
    if connection.execute(job).one_or_none() is None:
        connection.execute(delete(intakes).where(_holds(intake)))
        return None
    query: Select[Any] = (
        select(
            jobs.c.pool,
            job_requests.c.request,
            job_requests.c.params,
            job_requests.c.inputs,
            job_requests.c.warnings,
        )
        .join(job_requests, job_requests.c.job_id == jobs.c.id)
        .join(intakes, intakes.c.job_id == jobs.c.id)
        .where(_holds(intake))
    )
    return connection.execute(query).one_or_none()


def _check_mask(request: Mapping[str, Any], inputs: Mapping[str, Any]) -> None:
    """Raises `Invalid` when an opaque image was to be its own mask; submit says the same of images that it sees."""
    if wishes_of(request).mask_mode == "alpha" and "mask" not in inputs:
        raise Invalid([Problem("/mask", "mask_missing", "mask_mode alpha needs an image with transparent parts")])


def _settled(row: Row[Any], inputs: dict[str, Any], catalogue: Catalogue) -> EditParams:
    """What will run, now that the size of the image is known; a random seed stays the one that was told."""
    image = InputRef.from_dict(inputs["image"]) if "image" in inputs else None
    given = Given(image=(image.width, image.height) if image else None, has_mask="mask" in inputs)
    wishes = wishes_of(row.request)
    return settle(wishes, catalogue, given, random_seed=drawn_seed(wishes, EditParams.from_dict(row.params)))


def _warnings(row: Row[Any], inputs: dict[str, Any], params: EditParams) -> list[dict[str, str]]:
    """Those of the submit, and what can be said of sizes only now."""
    sizes = {role: (members["width"], members["height"]) for role, members in inputs.items()}
    now_known = remarks(wishes_of(row.request), params, image=sizes.get("image"), mask=sizes.get("mask"))
    return [*row.warnings, *(one for one in now_known if one["code"] in SIZE_CODES and one not in row.warnings)]


def _release(connection: Connection, job_id: str, params: EditParams, catalogue: Catalogue) -> None:
    """Store what will run and let the job be claimed, unless its batch is paused; its place in the order stays."""
    connection.execute(_update_request(job_id, params=params.as_dict()))
    values = {
        "held": hold_of_batch(),
        "task": params.task,
        "cost": predicted_cost(params, catalogue),
        "step_key": step_key(params),
        "call_key": call_key(params, job_id),
        "frames": params.num_images,
        "version": jobs.c.version + 1,
    }
    told = (jobs.c.id, jobs.c.tenant_id, jobs.c.version, jobs.c.state, jobs.c.attempt)
    moved = connection.execute(update(jobs).where(jobs.c.id == job_id, _AWAITS).values(values).returning(*told)).one()
    payload = {"state": moved.state, "move": "prepare", "attempt": moved.attempt, "error": None}
    write_event(connection, moved, "job.prepared", payload)


def _update_request(job_id: str, **values: Any) -> Any:
    return update(job_requests).where(job_requests.c.job_id == job_id).values(values)
