"""Trying again what failed or was canceled: a new job, made of the old one's request and what shall be otherwise."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from api.dependencies import Services
from api.use_cases.idempotency import Idempotency
from api.use_cases.job_webhook import carry_webhook, prepare_webhook
from api.use_cases.look_up import require_job
from api.use_cases.resolve_input import PreparedInput, prepare_input
from api.use_cases.submit_job import Draft, Prepared, Submitted, accept_job, find_replay
from common.db.jobs import find_request
from common.db.tenants import Caller
from common.db.webhooks import NewWebhook
from common.domain.errors import Conflict, NotFound
from common.domain.fairness import Lane
from common.domain.job import AcceptedRequest
from common.domain.lifecycle import JobState
from common.domain.snapshot import JobSnapshot
from common.requests.job import JobRequest
from common.requests.jobs import ROLES
from common.requests.planning import bounded_lane, choose_lane
from common.requests.retrying import awaited_source, merge_request, pointing_into_overrides, seed_of_retry


@dataclass(frozen=True, slots=True)
class Retry:
    """What a client sent: which job, and the fields that replace those of its request; None is back to the default."""

    job_id: str
    overrides: Mapping[str, Any] = field(default_factory=dict)
    idempotency: Idempotency | None = None


def retry_job(services: Services, caller: Caller, retry: Retry) -> Submitted:
    """Accept the new job, as `submit_job` does; tries and deadline start anew.

    The seed that the first job was told stays unless overridden, and so do its inputs, as they were prepared then, and
    its webhook.
    Raises what `submit_job` raises, with pointers into `/overrides`; `NotFound`; `Conflict` unless the job failed or
    was canceled.
    """
    if replay := find_replay(services, caller, retry.idempotency):
        return replay
    job, accepted = _require_ended(services, caller, retry.job_id)
    with pointing_into_overrides():
        request = _merge(job, accepted, retry.overrides, caller)
        draft = Draft(
            request=request,
            lane=choose_lane(request.priority, caller),
            prepared=_prepare(services, caller, request, accepted, retry.overrides),
            idempotency=retry.idempotency,
            random_seed=seed_of_retry(accepted, job.params, retry.overrides),
            retry_of=job.id,
            external_id=None if "external_id" in retry.overrides else job.external_id,
            webhook=_webhook(services, caller, request, retry),
        )
        return accept_job(services, caller, draft)


def _require_ended(services: Services, caller: Caller, job_id: str) -> tuple[JobSnapshot, AcceptedRequest]:
    with services.database.read() as connection:
        job = require_job(connection, caller.tenant_id, job_id)
        accepted = find_request(connection, caller.tenant_id, job_id)
    if job.state not in (JobState.FAILED, JobState.CANCELED):
        raise Conflict(f"the job is {job.state}; only one that failed or was canceled can be retried")
    if accepted is None:
        raise NotFound("there is no such job")
    return job, accepted


def _merge(job: JobSnapshot, accepted: AcceptedRequest, overrides: Mapping[str, Any], caller: Caller) -> JobRequest:
    notes = {"tags": job.tags, "metadata": job.metadata}
    lane = {"priority": bounded_lane(Lane(job.lane), caller).value}
    return merge_request(accepted, notes | lane, overrides)


def _prepare(
    services: Services,
    caller: Caller,
    request: JobRequest,
    accepted: AcceptedRequest,
    overrides: Mapping[str, Any],
) -> Prepared:
    prepared: Prepared = {}
    for role in ROLES:
        source = getattr(request, role) if role in overrides else awaited_source(accepted, role)
        if source is not None:
            prepared[role] = prepare_input(services, caller, source, f"/{role}")
        elif role not in overrides and role in accepted.inputs:
            prepared[role] = PreparedInput(accepted.inputs[role])
    return prepared


def _webhook(services: Services, caller: Caller, request: JobRequest, retry: Retry) -> NewWebhook | None:
    if request.webhook is not None:
        return prepare_webhook(services, caller, request.webhook)
    return None if "webhook" in retry.overrides else carry_webhook(services, caller, retry.job_id)
