"""Accepting a job: checked, its images clean and stored, its row committed, and only then the doorbell."""

import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field

from sqlalchemy import Connection

from api.dependencies import Services
from api.use_cases.idempotency import Idempotency, find_original
from api.use_cases.job_webhook import keep_webhook, prepare_webhook
from api.use_cases.resolve_input import PendingUrl, PreparedInput, keep_input, prepare_bytes, prepare_input
from common import failpoints
from common.db.intakes import insert_intakes
from common.db.jobs import find_job, insert_job
from common.db.tenants import Caller
from common.db.webhooks import NewWebhook
from common.domain.errors import Unavailable
from common.domain.fairness import Lane
from common.domain.job import NewJob
from common.domain.outlook import Outlook
from common.domain.params import SEED_LIMIT
from common.domain.snapshot import JobSnapshot
from common.requests.job import JobRequest
from common.requests.jobs import ROLES, Terms, make_job
from common.requests.planning import Inputs, Plan, choose_lane, make_plan

Prepared = dict[str, PreparedInput | PendingUrl]


@dataclass(frozen=True, slots=True)
class Submission:
    """What a client sent: the typed request, and the bytes of its file parts by role as they came."""

    request: JobRequest
    files: Mapping[str, bytes] = field(default_factory=dict)
    idempotency: Idempotency | None = None


@dataclass(frozen=True, slots=True)
class Submitted:
    """The job as it now is; `replayed`: an earlier request with the same key made it."""

    job: JobSnapshot
    replayed: bool


@dataclass(frozen=True, slots=True)
class Preview:
    """What a submit would run, and what the job might expect."""

    plan: Plan
    outlook: Outlook


@dataclass(frozen=True, slots=True)
class Draft:
    """A job to be accepted: its request, its lane, and its inputs by role, of which nothing need be stored yet.

    `random_seed` and `external_id` are for a request that gives none.
    """

    request: JobRequest
    lane: Lane
    prepared: Prepared
    idempotency: Idempotency | None = None
    random_seed: int = field(default_factory=lambda: secrets.randbelow(SEED_LIMIT))
    retry_of: str | None = None
    external_id: str | None = None
    webhook: NewWebhook | None = None


def preview_submit(services: Services, caller: Caller, submission: Submission) -> Preview:
    """What `submit_job` would run, and when; stores nothing. Raises what it would raise."""
    _recall(services, caller, submission.idempotency)
    draft = _draft(services, caller, submission)
    plan = _plan(services, draft)
    outlook = services.outlooks.of_new(
        pool=plan.card.pool, tenant_id=caller.tenant_id, lane=draft.lane, model=plan.card.id, cost=plan.cost
    )
    return Preview(plan, outlook)


def submit_job(services: Services, caller: Caller, submission: Submission) -> Submitted:
    """Accept the job: it is committed when this returns, and reaches a terminal state by its deadline.

    Raises `Refusal` or `Denied` with nothing stored and the idempotency key unused, or `Unavailable`.
    """
    if replay := find_replay(services, caller, submission.idempotency):
        return replay
    return accept_job(services, caller, _draft(services, caller, submission))


def find_replay(services: Services, caller: Caller, idempotency: Idempotency | None) -> Submitted | None:
    """What an earlier request with this key made, if there was one. Raises as `find_original` does."""
    original = _recall(services, caller, idempotency)
    return None if original is None else _replay(services, original)


def accept_job(services: Services, caller: Caller, draft: Draft) -> Submitted:
    """The job of this draft, committed and rung for; raises as `submit_job` does."""
    plan = _plan(services, draft)
    inputs = {
        role: keep_input(services, caller, one, f"/{role}")
        for role, one in draft.prepared.items()
        if isinstance(one, PreparedInput)
    }
    urls = {role: one.url for role, one in draft.prepared.items() if isinstance(one, PendingUrl)}
    job = make_job(draft.request, plan, _terms(services, caller, draft, plan), inputs, urls)
    submitted = services.database.transact(lambda c: _insert(c, job, urls, draft))
    if submitted.replayed:
        return _replay(services, submitted.job)
    failpoints.hit("api.committed")
    if urls:
        services.doorbell.ring_courier()
    else:
        services.doorbell.ring(job.pool, 1)
    failpoints.hit("api.rang")
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


def _draft(services: Services, caller: Caller, submission: Submission) -> Draft:
    request = submission.request
    lane = choose_lane(request.priority, caller)
    webhook = None if request.webhook is None else prepare_webhook(services, caller, request.webhook)
    prepared = _prepare(services, caller, submission)
    return Draft(request, lane, prepared, submission.idempotency, webhook=webhook)


def _prepare(services: Services, caller: Caller, submission: Submission) -> Prepared:
    """Every input, of which nothing is stored yet. A model that does not exist is refused before any decoding."""
    if submission.request.model is not None:
        services.catalogue.require(submission.request.model)
    prepared: Prepared = {}
    for role in ROLES:
        source = getattr(submission.request, role)
        if source is not None:
            prepared[role] = prepare_input(services, caller, source, f"/{role}")
        elif role in submission.files:
            prepared[role] = prepare_bytes(services, caller, submission.files[role], f"/{role}")
    return prepared


def _plan(services: Services, draft: Draft) -> Plan:
    image, mask = draft.prepared.get("image"), draft.prepared.get("mask")
    inputs = Inputs(
        has_image=image is not None,
        has_mask=mask is not None,
        image_size=_size(image),
        mask_size=_size(mask),
        is_opaque=isinstance(image, PreparedInput) and image.has_alpha is False,
    )
    return make_plan(draft.request, services.catalogue, inputs, random_seed=draft.random_seed)


def _size(one: PreparedInput | PendingUrl | None) -> tuple[int, int] | None:
    return (one.reference.width, one.reference.height) if isinstance(one, PreparedInput) else None


def _terms(services: Services, caller: Caller, draft: Draft, plan: Plan) -> Terms:
    return Terms(
        tenant_id=caller.tenant_id,
        lane=draft.lane,
        max_tries=services.settings.max_tries,
        scale=services.paces.scale(plan.card.pool, plan.card.id),
        retry_of=draft.retry_of,
        external_id=draft.external_id,
    )


def _insert(connection: Connection, job: NewJob, urls: dict[str, str], draft: Draft) -> Submitted:
    idempotency = draft.idempotency
    if idempotency and (original := find_original(connection, job.tenant_id, idempotency, take_for=job.id)):
        return Submitted(original, replayed=True)
    insert_job(connection, job)
    insert_intakes(connection, job.id, job.tenant_id, urls)
    if draft.webhook is not None:
        keep_webhook(connection, job.tenant_id, job.id, draft.webhook)
    failpoints.hit("api.inserted")
    snapshot = find_job(connection, job.tenant_id, job.id)
    if snapshot is None:
        raise Unavailable("the database lost the job that was just written")
    return Submitted(snapshot, replayed=False)
