"""Accepting a job: checked, its image clean and stored, its row committed, and only then the doorbell."""

import secrets
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection

from api.dependencies import Services
from api.schemas.job_request import JobRequest
from api.use_cases.idempotency import Idempotency, find_original
from api.use_cases.plan_job import Plan, choose_card, choose_lane, make_plan
from common.db.jobs import find_job, insert_job
from common.db.tenants import Caller
from common.domain.batching import call_key, step_key
from common.domain.errors import Invalid, Problem, Unavailable
from common.domain.fairness import Lane
from common.domain.job import InputRef, NewJob
from common.domain.params import SEED_LIMIT
from common.domain.snapshot import JobSnapshot
from common.ids import new_id
from common.images.untrusted import DecodedImage, ImageRejected
from common.storage.keys import input_key


@dataclass(frozen=True, slots=True)
class Submission:
    """What a client sent: the typed request, and the bytes of its image as they came."""

    request: JobRequest
    image: bytes | None
    idempotency: Idempotency | None = None


@dataclass(frozen=True, slots=True)
class Submitted:
    """The job as it now is; `replayed`: an earlier request with the same key made it."""

    job: JobSnapshot
    replayed: bool


def preview_submit(services: Services, caller: Caller, submission: Submission) -> Plan:
    """What `submit_job` would run; stores nothing. Raises what it would raise."""
    _recall(services, caller, submission.idempotency)
    choose_lane(submission.request, caller)
    return _plan(services, submission)[0]


def submit_job(services: Services, caller: Caller, submission: Submission) -> Submitted:
    """Accept the job: it is committed when this returns, and reaches a terminal state by its deadline.

    Raises `Refusal` or `Denied` with nothing stored and the idempotency key unused, or `Unavailable`.
    """
    if original := _recall(services, caller, submission.idempotency):
        return _replay(services, original)
    lane = choose_lane(submission.request, caller)
    plan, image = _plan(services, submission)
    inputs = {} if image is None else {"image": _store_input(services, caller, image)}
    job = _new_job(services, caller, submission.request, lane, plan, inputs)
    with services.database.write() as connection:
        submitted = _insert(connection, job, submission.idempotency)
    if submitted.replayed:
        return _replay(services, submitted.job)
    services.doorbell.ring(job.pool, 1)
    services.metrics.count_submit(job.params.model, job.params.task, replayed=False)
    return submitted


def _recall(services: Services, caller: Caller, idempotency: Idempotency | None) -> JobSnapshot | None:
    """The look before the work, so that a replay decodes nothing; `_insert` has the last word."""
    if idempotency is None:
        return None
    with services.database.read() as connection:
        return find_original(connection, caller.tenant_id, idempotency)


def _replay(services: Services, job: JobSnapshot) -> Submitted:
    services.metrics.count_submit(job.params.model, job.params.task, replayed=True)
    return Submitted(job, replayed=True)


def _plan(services: Services, submission: Submission) -> tuple[Plan, DecodedImage | None]:
    card = choose_card(submission.request, services.catalogue)
    image = None if submission.image is None else _decode(services, submission.image)
    size = None if image is None else (image.width, image.height)
    plan = make_plan(submission.request, card, input_size=size, random_seed=secrets.randbelow(SEED_LIMIT))
    return plan, image


def _decode(services: Services, data: bytes) -> DecodedImage:
    try:
        return services.decoder.decode(data)
    except ImageRejected as error:
        raise Invalid([Problem("/image", error.code, error.detail)]) from None


def _store_input(services: Services, caller: Caller, image: DecodedImage) -> InputRef:
    """Content-addressed, so a submit that fails after this leaves nothing that a later one could not use."""
    key = input_key(caller.tenant_id, image.sha256)
    services.store.put(key, image.png, "image/png", if_absent=True)
    return InputRef(key, image.sha256, len(image.png), image.width, image.height)


def _new_job(
    services: Services, caller: Caller, request: JobRequest, lane: Lane, plan: Plan, inputs: dict[str, InputRef]
) -> NewJob:
    job_id = new_id("job")
    return NewJob(
        id=job_id,
        tenant_id=caller.tenant_id,
        pool=plan.card.pool,
        lane=lane,
        params=plan.params,
        inputs=inputs,
        request=_kept_request(request, inputs),
        step_key=step_key(plan.params),
        call_key=call_key(plan.params, job_id),
        cost=plan.cost,
        max_tries=services.settings.max_tries,
        deadline_seconds=request.deadline_seconds,
        expires_in_seconds=request.expires_in_seconds,
        tags=tuple(request.tags),
        metadata=request.metadata,
        external_id=request.external_id,
        warnings=plan.warnings,
    )


def _kept_request(request: JobRequest, inputs: dict[str, InputRef]) -> dict[str, Any]:
    """The request as accepted; in place of pixels the digest of the prepared image."""
    members = request.model_dump(mode="json", exclude_unset=True, exclude={"image"})
    return members | {role: {"sha256": reference.sha256} for role, reference in inputs.items()}


def _insert(connection: Connection, job: NewJob, idempotency: Idempotency | None) -> Submitted:
    if idempotency and (original := find_original(connection, job.tenant_id, idempotency, take_for=job.id)):
        return Submitted(original, replayed=True)
    insert_job(connection, job)
    snapshot = find_job(connection, job.tenant_id, job.id)
    if snapshot is None:
        raise Unavailable("the database lost the job that was just written")
    return Submitted(snapshot, replayed=False)
