"""Accepting a batch: its manifest stored, its row committed, and only then the bell. Its lines a courier judges."""

from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import Connection

from api.dependencies import Services
from api.manifests import Manifest
from api.schemas.batches import BatchEnvelope
from api.use_cases.batch_images import KEPT_SECONDS, keep_images
from api.use_cases.batch_webhook import keep_batch_webhook, prepare_batch_webhook
from api.use_cases.idempotency import Idempotency, find_first, gone
from common import failpoints
from common.db.batches import NewBatch, announce_manifest, find_batch, insert_batch, keep_manifest
from common.db.tenants import Caller
from common.db.webhooks import NewWebhook
from common.domain.batch import BatchSnapshot
from common.domain.errors import Unavailable
from common.domain.fairness import Lane
from common.ids import new_id
from common.requests.lines import check_defaults, check_size
from common.requests.planning import bounded_lane, choose_lane
from common.storage.keys import content_type_of, manifest_key

_DEFAULTS: Final = "/defaults"

Draw = Callable[[], Manifest]


@dataclass(frozen=True, slots=True)
class BatchSubmission:
    """What a client sent. `draw` makes its manifest, when that is needed."""

    request: BatchEnvelope
    draw: Draw
    idempotency: Idempotency | None = None


@dataclass(frozen=True, slots=True)
class SubmittedBatch:
    """The batch as it now is; `replayed`: an earlier request with the same key made it."""

    batch: BatchSnapshot
    replayed: bool


@dataclass(frozen=True, slots=True)
class BatchDraft:
    """A batch to be accepted, of which nothing is stored yet. `request`: see `NewBatch`."""

    name: str | None
    lane: Lane
    request: dict[str, Any]
    draw: Draw
    idempotency: Idempotency | None = None
    webhook: NewWebhook | None = None
    retry_of: str | None = None


def submit_batch(services: Services, caller: Caller, submission: BatchSubmission) -> SubmittedBatch:
    """Accept the batch: it is committed when this returns, `validating`.

    Raises `Refusal` or `Denied` with nothing stored and the idempotency key unused, or `Unavailable`.
    """
    if replay := find_batch_replay(services, caller, submission.idempotency):
        return replay
    return accept_batch(services, caller, _draft(services, caller, submission))


def find_batch_replay(services: Services, caller: Caller, idempotency: Idempotency | None) -> SubmittedBatch | None:
    """What an earlier request with this key made, if there was one. Raises `Refusal` as `find_original` does."""
    if idempotency is None:
        return None
    with services.database.read() as connection:
        original = _find_original(connection, caller.tenant_id, idempotency)
    return None if original is None else SubmittedBatch(original, replayed=True)


def accept_batch(services: Services, caller: Caller, draft: BatchDraft) -> SubmittedBatch:
    """The batch of this draft, committed and rung for; raises as `submit_batch` does."""
    batch_id = new_id("bat")
    key = manifest_key(caller.tenant_id, batch_id)
    with closing(draft.draw()) as manifest:
        check_size(draft.request["defaults"], manifest.lines)
        check_size(draft.request.get("overrides", {}), manifest.lines, "/overrides")
        _store(services, caller, key, manifest)
        new = NewBatch(
            id=batch_id,
            tenant_id=caller.tenant_id,
            name=draft.name,
            lane=draft.lane,
            total=manifest.lines,
            manifest_key=key,
            request=draft.request,
            retry_of=draft.retry_of,
        )
    failpoints.hit("api.batch_stored")
    submitted = services.database.transact(lambda connection: _insert(connection, new, draft))
    if not submitted.replayed:
        failpoints.hit("api.batch_committed")
        services.doorbell.ring_courier()
    return submitted


def _draft(services: Services, caller: Caller, submission: BatchSubmission) -> BatchDraft:
    wish = submission.request
    check_defaults(wish.defaults, _DEFAULTS)
    lane = bounded_lane(Lane.LOW, caller) if wish.priority is None else choose_lane(wish.priority, caller)
    webhook = None if wish.webhook is None else prepare_batch_webhook(services, caller, wish.webhook)
    defaults = keep_images(services, caller, wish.defaults, _DEFAULTS)
    request = {"defaults": defaults, "on_invalid": wish.on_invalid, "metadata": wish.metadata}
    return BatchDraft(wish.name, lane, request, submission.draw, submission.idempotency, webhook)


def _store(services: Services, caller: Caller, key: str, manifest: Manifest) -> None:
    """The object is known before it lies there; unless a batch comes of it, it goes after an hour."""
    services.database.transact(
        lambda connection: announce_manifest(connection, caller.tenant_id, key, manifest.bytes, manifest.sha256)
    )
    manifest.file.seek(0)
    services.store.put(key, manifest.file, content_type_of(key))


def _insert(connection: Connection, new: NewBatch, draft: BatchDraft) -> SubmittedBatch:
    idempotency = draft.idempotency
    if idempotency and (original := _find_original(connection, new.tenant_id, idempotency, take_for=new.id)):
        return SubmittedBatch(original, replayed=True)
    insert_batch(connection, new)
    keep_manifest(connection, new.manifest_key, KEPT_SECONDS)
    if draft.webhook is not None:
        keep_batch_webhook(connection, new.tenant_id, new.id, draft.webhook)
    failpoints.hit("api.batch_inserted")
    batch = find_batch(connection, new.tenant_id, new.id)
    if batch is None:
        raise Unavailable("the database lost the batch that was just written")
    return SubmittedBatch(batch, replayed=False)


def _find_original(
    connection: Connection, tenant_id: str, idempotency: Idempotency, take_for: str | None = None
) -> BatchSnapshot | None:
    """As `find_original` does it for jobs."""
    batch_id = find_first(connection, tenant_id, idempotency, take_for)
    if batch_id is None:
        return None
    batch = find_batch(connection, tenant_id, batch_id)
    if batch is None:
        raise gone("batch")
    return batch
