"""From a request and its plan to the job that is inserted: the same for a single job and for a line of a batch."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from common.domain.batching import call_key, step_key
from common.domain.fairness import Lane
from common.domain.job import InputRef, NewJob
from common.ids import new_id
from common.requests.job import JobRequest
from common.requests.planning import Plan

ROLES: Final = ("image", "mask")


@dataclass(frozen=True, slots=True)
class Terms:
    """What a job is accepted under besides its request; `scale` is that of `NewJob`.

    `external_id` is for a request that has none.
    """

    tenant_id: str
    lane: Lane
    max_tries: int
    scale: float = 1.0
    retry_of: str | None = None
    batch_id: str | None = None
    external_id: str | None = None


def make_job(
    request: JobRequest, plan: Plan, terms: Terms, inputs: Mapping[str, InputRef], urls: Mapping[str, str]
) -> NewJob:
    """The job, with an id of its own. `inputs` are stored, `urls` are still to be fetched, both by role."""
    job_id = new_id("job")
    return NewJob(
        id=job_id,
        tenant_id=terms.tenant_id,
        pool=plan.card.pool,
        lane=terms.lane,
        params=plan.params,
        inputs=dict(inputs),
        request=_kept_request(request, inputs, urls),
        step_key=step_key(plan.params),
        call_key=call_key(plan.params, job_id),
        cost=plan.cost,
        scale=terms.scale,
        max_tries=terms.max_tries,
        deadline_seconds=request.deadline_seconds,
        expires_in_seconds=request.expires_in_seconds,
        tags=tuple(request.tags),
        metadata=request.metadata,
        external_id=request.external_id or terms.external_id,
        warnings=plan.warnings,
        retry_of=terms.retry_of,
        batch_id=terms.batch_id,
    )


def _kept_request(request: JobRequest, inputs: Mapping[str, InputRef], urls: Mapping[str, str]) -> dict[str, Any]:
    """The request as accepted; in place of pixels the digest of the prepared image, or until it is there its URL.

    It is for our own use: a URL may hold secrets and is shown to nobody. The webhook stands in a row of its own.
    """
    members = request.model_dump(mode="json", exclude_unset=True, exclude={*ROLES, "webhook"})
    members |= {role: {"sha256": reference.sha256} for role, reference in inputs.items()}
    return members | {role: {"url": url} for role, url in urls.items()}
