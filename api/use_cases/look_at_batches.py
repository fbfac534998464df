"""Looking at batches, and at their jobs."""

from dataclasses import dataclass

from sqlalchemy import Connection

from api.dependencies import Services
from api.use_cases.look_up import Page, look_at_jobs
from common.db.batches import find_batch, list_batches
from common.db.tenants import Caller
from common.domain.batch import BatchOutlook, BatchSnapshot
from common.domain.errors import NotFound
from common.ids import is_id


@dataclass(frozen=True, slots=True)
class BatchPage:
    """Some batches, newest first, and whether there are older ones."""

    batches: list[BatchSnapshot]
    has_more: bool


def require_batch(connection: Connection, tenant_id: str, batch_id: str) -> BatchSnapshot:
    """The tenant's batch. Raises `NotFound`, alike for malformed, foreign and unknown ids."""
    batch = find_batch(connection, tenant_id, batch_id) if is_id(batch_id, "bat") else None
    if batch is None:
        raise no_such_batch()
    return batch


def no_such_batch() -> NotFound:
    """This tenant has none of that id."""
    return NotFound("there is no such batch")


def look_at_batch(services: Services, caller: Caller, batch_id: str) -> tuple[BatchSnapshot, BatchOutlook]:
    """The batch as it is now, and what it may expect; raises `NotFound`."""
    with services.database.read() as connection:
        batch = require_batch(connection, caller.tenant_id, batch_id)
    return batch, services.batch_outlooks.of(batch)


def look_at_batches(
    services: Services, caller: Caller, *, limit: int, after: str | None, state: str | None
) -> BatchPage:
    """One page of the caller's batches, older than the id `after`; in this state, if one is given."""
    filters = {} if state is None else {"state": state}
    with services.database.read() as connection:
        found = list_batches(connection, caller.tenant_id, limit=limit + 1, after=after, filters=filters)
    return BatchPage(found[:limit], has_more=len(found) > limit)


def look_at_jobs_of_batch(
    services: Services, caller: Caller, batch_id: str, *, limit: int, after: str | None, state: str | None
) -> Page:
    """One page of the batch's jobs, newest first. Raises `NotFound`."""
    if not is_id(batch_id, "bat"):
        raise no_such_batch()
    page = look_at_jobs(services, caller, limit=limit, after=after, filters={"batch": batch_id, "state": state})
    if not page.jobs:  # what has jobs of the caller is a batch of the caller
        with services.database.read() as connection:
            require_batch(connection, caller.tenant_id, batch_id)
    return page
