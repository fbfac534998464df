"""Trying again what failed or was canceled: a new job, made of the old one's request and what shall be otherwise."""

import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, Final

from api.dependencies import Services
from api.use_cases.idempotency import Idempotency
from api.use_cases.job_webhook import carry_webhook, prepare_webhook
from api.use_cases.look_up import require_job
from api.use_cases.resolve_input import PreparedInput, prepare_input
from api.use_cases.submit_job import ROLES, Draft, Prepared, Submitted, accept_job, find_replay
from common.db.jobs import find_request
from common.db.tenants import Caller
from common.db.webhooks import NewWebhook
from common.domain.errors import Conflict, Invalid, NotFound
from common.domain.fairness import Lane
from common.domain.job import AcceptedRequest
from common.domain.lifecycle import JobState
from common.domain.params import SEED_LIMIT
from common.domain.snapshot import JobSnapshot
from common.domain.wishes import drawn_seed, wishes_of
from common.requests.images import ImageSource
from common.requests.job import JobRequest
from common.requests.planning import bounded_lane, choose_lane
from common.requests.validation import parse_job_request, pointer_to, unknown_name

_POINTER: Final = "/overrides"


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
    with _pointing_into_overrides():
        request = _merge(job, accepted, retry.overrides, caller)
        draft = Draft(
            request=request,
            lane=choose_lane(request.priority, caller),
            prepared=_prepare(services, caller, request, accepted, retry.overrides),
            idempotency=retry.idempotency,
            random_seed=_random_seed(job, accepted, retry.overrides),
            retry_of=job.id,
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


@contextmanager
def _pointing_into_overrides() -> Iterator[None]:
    """Every wrong field is mended there, also one that was right when the first job was submitted."""
    try:
        yield
    except Invalid as error:
        raise Invalid([replace(one, pointer=_POINTER + one.pointer) for one in error.problems]) from None


def _merge(job: JobSnapshot, accepted: AcceptedRequest, overrides: Mapping[str, Any], caller: Caller) -> JobRequest:
    """The new request. Images stand in it only where they are overridden."""
    fields = list(JobRequest.model_fields)
    unknown = [unknown_name(pointer_to([name]), name, fields) for name in overrides if name not in fields]
    if unknown:
        raise Invalid(unknown[:20])
    stored = {name: value for name, value in accepted.request.items() if name not in ROLES}
    notes = {"tags": job.tags, "metadata": job.metadata, "external_id": job.external_id}
    lane = {"priority": bounded_lane(Lane(job.lane), caller).value}
    members = stored | notes | lane | dict(overrides)
    return parse_job_request({name: value for name, value in members.items() if value is not None})


def _prepare(
    services: Services,
    caller: Caller,
    request: JobRequest,
    accepted: AcceptedRequest,
    overrides: Mapping[str, Any],
) -> Prepared:
    prepared: Prepared = {}
    for role in ROLES:
        source = getattr(request, role) if role in overrides else _awaited(accepted, role)
        if source is not None:
            prepared[role] = prepare_input(services, caller, source, f"/{role}")
        elif role not in overrides and role in accepted.inputs:
            prepared[role] = PreparedInput(accepted.inputs[role])
    return prepared


def _awaited(accepted: AcceptedRequest, role: str) -> ImageSource | None:
    """Where the image of the first job was to be fetched, if that had not been done."""
    url = None if role in accepted.inputs else accepted.request.get(role, {}).get("url")
    return None if url is None else ImageSource(url=url)


def _webhook(services: Services, caller: Caller, request: JobRequest, retry: Retry) -> NewWebhook | None:
    if request.webhook is not None:
        return prepare_webhook(services, caller, request.webhook)
    return None if "webhook" in retry.overrides else carry_webhook(services, caller, retry.job_id)


def _random_seed(job: JobSnapshot, accepted: AcceptedRequest, overrides: Mapping[str, Any]) -> int:
    if "seed" in overrides:  # if it is null, a new one is wished
        return secrets.randbelow(SEED_LIMIT)
    return drawn_seed(wishes_of(accepted.request), job.params)
