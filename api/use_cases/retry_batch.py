"""Trying again what failed of a batch: a new batch, whose lines name the jobs that they take the place of."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final

from api.dependencies import Services
from api.manifests import Manifest, write_manifest
from api.use_cases.batch_images import keep_images
from api.use_cases.batch_webhook import carry_batch_webhook
from api.use_cases.idempotency import Idempotency
from api.use_cases.look_at_batches import require_batch
from api.use_cases.submit_batch import BatchDraft, SubmittedBatch, accept_batch, find_batch_replay
from common.db.batch_retries import EndedItem, count_jobless, list_ended
from common.db.tenants import Caller
from common.domain.batch import CHUNK, BatchSnapshot, OnInvalid
from common.domain.errors import Conflict
from common.domain.fairness import Lane
from common.requests.lines import check_defaults
from common.requests.planning import bounded_lane

_POINTER: Final = "/overrides"


@dataclass(frozen=True, slots=True)
class BatchRetry:
    """What a client sent: which batch, and the fields that replace those of its jobs; None is back to the default."""

    batch_id: str
    overrides: Mapping[str, Any] = field(default_factory=dict)
    with_canceled: bool = False
    on_invalid: OnInvalid = "skip"
    idempotency: Idempotency | None = None


def retry_batch(services: Services, caller: Caller, retry: BatchRetry) -> SubmittedBatch:
    """Accept the new batch, as `submit_batch` does. Name, priority (as far as the key may use it), metadata and
    webhook are carried over.

    Raises `NotFound`; `Conflict` unless the batch is over and something of it can be tried again, and when canceled
    lines are wished of which some never had a job; `Invalid` with pointers into `/overrides`.
    """
    if replay := find_batch_replay(services, caller, retry.idempotency):
        return replay
    check_defaults(retry.overrides, _POINTER)
    batch = _require_ended(services, caller, retry)
    request = {
        "defaults": {},
        "on_invalid": retry.on_invalid,
        "metadata": batch.metadata,
        "overrides": keep_images(services, caller, retry.overrides, _POINTER),
    }
    draft = BatchDraft(
        name=batch.name,
        lane=bounded_lane(Lane(batch.lane), caller),
        request=request,
        draw=partial(_draw, services, caller, retry),
        idempotency=retry.idempotency,
        webhook=carry_batch_webhook(services, caller, batch.id),
        retry_of=batch.id,
    )
    return accept_batch(services, caller, draft)


def _require_ended(services: Services, caller: Caller, retry: BatchRetry) -> BatchSnapshot:
    with services.database.read() as connection:
        batch = require_batch(connection, caller.tenant_id, retry.batch_id)
        jobless = count_jobless(connection, batch)
    if not batch.state.is_terminal:
        raise Conflict(f"the batch is {batch.state}; only one that is over can be retried")
    if retry.with_canceled and jobless:
        detail = f"{jobless} lines were canceled before they had a job: hand these in as a new batch"
        raise Conflict(f"{detail}, and retry without include_canceled")
    return batch


def _draw(services: Services, caller: Caller, retry: BatchRetry) -> Manifest:
    manifest = write_manifest(
        ({"custom_id": item.custom_id, "retry_of": item.job_id} for item in _ended_items(services, caller, retry)),
        "",
    )
    if not manifest.lines:
        manifest.close()
        what = "failed or was canceled" if retry.with_canceled else "failed"
        raise Conflict(f"no job of the batch {what}; a wrong line has no job, hand it in anew")
    return manifest


def _ended_items(services: Services, caller: Caller, retry: BatchRetry) -> Iterator[EndedItem]:
    """Page by page, each with a short look of its own: what is over does not change."""
    after = -1
    while True:
        with services.database.read() as connection:
            page = list_ended(
                connection,
                caller.tenant_id,
                retry.batch_id,
                after_line=after,
                limit=CHUNK,
                with_canceled=retry.with_canceled,
            )
        yield from page
        if len(page) < CHUNK:
            return
        after = page[-1].line
