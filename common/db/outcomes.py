"""What a courier writes around its call: what is sent, and what came of it. Fenced, see `common.db.dispatching`."""

from collections.abc import Callable
from typing import Any, Final

from sqlalchemy import Connection, case, select, update

from common.db.batches import find_batch
from common.db.deliveries import ERASED
from common.db.dispatching import MAX_LOG, Taken, ended, holds
from common.db.due_groups import is_failing_own_webhook
from common.db.jobs import find_job
from common.db.tables import deliveries, job_events, jobs, webhooks
from common.db.types import after_now, now
from common.domain.batch import BatchSnapshot
from common.domain.delivery import Again, Decision, Delivered, Disable, GiveUp
from common.domain.snapshot import JobSnapshot
from common.ids import is_id

_CLEARED: Final = 500

Rule = Callable[[float], Decision]
"""The decision, given for how many seconds the endpoint has been failing."""


def keep_body(
    connection: Connection, taken: Taken, build: Callable[[JobSnapshot | BatchSnapshot | None, str | None], str]
) -> str | None:
    """Build what is sent, from the job or batch as it is now and the device that the event names, and keep it for all
    attempts.

    None when the delivery is no longer ours. The job cannot be erased between its reading and the keeping; a batch of
    which something is told does not change any more.
    """
    subject: JobSnapshot | BatchSnapshot | None = None
    device: str | None = None
    if taken.subject_id is not None and is_id(taken.subject_id, "bat"):
        subject = find_batch(connection, taken.tenant_id, taken.subject_id)
    elif taken.subject_id is not None:
        _lock_job(connection, taken.subject_id)
        subject = find_job(connection, taken.tenant_id, taken.subject_id)
        own = (job_events.c.job_id == taken.subject_id) & (job_events.c.version == taken.version)
        payload = connection.execute(select(job_events.c.payload).where(own)).scalar_one_or_none()
        device = (payload or {}).get("device")
    body = build(subject, device)
    kept = connection.execute(update(deliveries).where(holds(taken)).values(body=body)).rowcount
    return body if kept else None


def settle(connection: Connection, taken: Taken, entry: dict[str, Any], rule: Rule) -> Decision | None:
    """Write what came of an attempt: its log entry, the state that follows, and how the endpoint fares.

    None when the delivery is no longer ours: nothing is written then. Of an erased job the response is not kept. A
    success tells that the host lives: endpoints of other jobs and batches of the tenant there do not count as failing
    any more.
    What waits for an endpoint that is disabled ends when it comes due, see `take`.
    """
    if taken.subject_id is not None and _lock_job(connection, taken.subject_id):
        entry = entry | {"response": None}
    query = select(webhooks.c.failing_since, webhooks.c.disabled_at, now().label("database_now"))
    own = webhooks.c.id == taken.webhook_id
    endpoint = connection.execute(query.where(own).with_for_update(key_share=True)).one_or_none()
    row = connection.execute(select(deliveries.c.log).where(holds(taken)).with_for_update()).one_or_none()
    if endpoint is None or row is None:
        return None
    failing_since = endpoint.failing_since or endpoint.database_now
    decision = rule((endpoint.database_now - failing_since).total_seconds())
    values = _values(decision, is_disabled=endpoint.disabled_at is not None)
    values["log"] = [*row.log, entry][-MAX_LOG:]
    connection.execute(update(deliveries).where(holds(taken)).values(values))
    if isinstance(decision, Delivered):
        if endpoint.failing_since is not None:
            connection.execute(update(webhooks).where(own).values(failing_since=None))
        _clear_failing(connection, taken)
    elif endpoint.failing_since is None:
        connection.execute(update(webhooks).where(own).values(failing_since=now()))
    if isinstance(decision, Disable) and endpoint.disabled_at is None:
        values = {"disabled_at": now(), "disabled_reason": decision.reason}
        connection.execute(update(webhooks).where(own).values(values))
    return decision


def scrub_deliveries(connection: Connection, job_id: str) -> None:
    """Remove what was said of a job that is being erased, and what receivers answered.

    What is still pending is built anew, from the erased job. To be called after the job is marked.
    """
    own = deliveries.c.subject_id == job_id
    # One statement: between two of them a row that ended could be made pending, and be met by neither.
    body = case((deliveries.c.state == "pending", None), else_=ERASED)
    connection.execute(update(deliveries).where(own).values(body=body))
    for row in connection.execute(select(deliveries.c.id, deliveries.c.log).where(own)).all():
        log = [entry | {"response": None} for entry in row.log]
        if log != row.log:
            connection.execute(update(deliveries).where(deliveries.c.id == row.id).values(log=log))


def _lock_job(connection: Connection, job_id: str) -> bool:
    """Keep the job from being erased until this transaction ends. Returns whether it has been."""
    query = select(jobs.c.erased_at).where(jobs.c.id == job_id).with_for_update(read=True)
    row = connection.execute(query).one_or_none()
    return row is not None and row.erased_at is not None


def _values(decision: Decision, *, is_disabled: bool) -> dict[str, Any]:
    match decision:
        case Delivered():
            return ended("delivered")
        case Again(seconds) if not is_disabled:
            return {"next_at": after_now(seconds), "worker_id": None, "lease_until": None}
        case GiveUp():
            return ended("failed")
    return ended("disabled")


def _clear_failing(connection: Connection, taken: Taken) -> None:
    """A page of them; those whose own attempt is just being written down speak for themselves."""
    there = (
        (webhooks.c.tenant_id == taken.tenant_id) & (webhooks.c.host == taken.host) & is_failing_own_webhook(webhooks)
    )
    page = select(webhooks.c.id).where(there).limit(_CLEARED).with_for_update(skip_locked=True, key_share=True)
    ids = list(connection.execute(page).scalars())
    if ids:
        connection.execute(update(webhooks).where(webhooks.c.id.in_(ids)).values(failing_since=None))
