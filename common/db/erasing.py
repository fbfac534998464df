"""Erasing a job on its owner's request: what it was asked to be goes at once, its objects with the cleaner.

The row itself stays, as the mark by which every later read knows that the job is gone.
"""

from typing import Any

from sqlalchemy import Connection, case, delete, select, update

from common.db.flows import lock_flow_of
from common.db.jobs import cancel_job
from common.db.outcomes import scrub_deliveries
from common.db.tables import batch_items, intakes, job_events, job_progress, job_requests, jobs
from common.db.types import now
from common.domain.errors import TITLES
from common.domain.lifecycle import TERMINAL

_BLANK = {"prompt": "", "negative_prompt": ""}


def erase_job(connection: Connection, tenant_id: str, job_id: str) -> bool:
    """Cancel the job if need be and remove every word of its owner. False when the tenant has no such job.

    What it made and what it was given may go from now on (`expires_at`), or as soon as its worker lets go of it. An
    attempt that runs may still finish; nobody gets to see that. Harmless to repeat.
    """
    mine = (jobs.c.id == job_id) & (jobs.c.tenant_id == tenant_id)
    lock_flow_of(connection, mine)  # flows before jobs, wherever both are locked
    if not _mark(connection, mine):
        return connection.execute(select(jobs.c.id).where(mine)).one_or_none() is not None
    cancel_job(connection, tenant_id, job_id)
    _empty_request(connection, job_id)
    connection.execute(update(batch_items).where(batch_items.c.job_id == job_id).values(custom_id=None))
    scrub_errors(connection, job_id)
    scrub_deliveries(connection, job_id)
    for table in (intakes, job_progress):
        connection.execute(delete(table).where(table.c.job_id == job_id))
    return True


def _mark(connection: Connection, mine: Any) -> bool:
    """Right after the flows: locks the row, and what ends the job later sees that nothing of it is to be kept."""
    is_over = jobs.c.state.in_(TERMINAL)
    values = {
        "erased_at": now(),
        "external_id": None,
        "expires_at": case((is_over, now()), else_=jobs.c.expires_at),
    }
    return connection.execute(update(jobs).where(mine, jobs.c.erased_at.is_(None)).values(values)).rowcount == 1


def _empty_request(connection: Connection, job_id: str) -> None:
    """What a worker or a snapshot reads stays readable: parameters without their prompts."""
    own = job_requests.c.job_id == job_id
    params = connection.execute(select(job_requests.c.params).where(own)).scalar_one()
    emptied = {"request": {}, "warnings": [], "tags": [], "metadata": {}, "expires_in_seconds": 0}
    connection.execute(update(job_requests).where(own).values(params=_without_prompts(params), **emptied))


def _without_prompts(params: dict[str, Any]) -> dict[str, Any]:
    return params | _BLANK | {"then": [one | _BLANK for one in params.get("then", ())]}


def scrub_errors(connection: Connection, job_id: str) -> None:
    """The words of an error may quote the request; its code stays."""
    own = jobs.c.id == job_id
    error = connection.execute(select(jobs.c.error).where(own)).scalar_one()
    if error is not None:
        connection.execute(update(jobs).where(own).values(error=_without_words(error)))
    query = select(job_events.c.id, job_events.c.payload).where(job_events.c.job_id == job_id)
    for row in connection.execute(query).all():
        if row.payload.get("error"):
            payload = row.payload | {"error": _without_words(row.payload["error"])}
            connection.execute(update(job_events).where(job_events.c.id == row.id).values(payload=payload))


def _without_words(error: dict[str, Any]) -> dict[str, Any]:
    return error | {"detail": TITLES.get(str(error.get("code")), TITLES["internal"]), "errors": []}
