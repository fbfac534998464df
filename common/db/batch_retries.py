"""Which items of a batch can be tried again."""

from dataclasses import dataclass

from sqlalchemy import Connection, func, select

from common.db.tables import batch_items, jobs
from common.domain.batch import BatchSnapshot, BatchState
from common.domain.lifecycle import JobState


@dataclass(frozen=True, slots=True)
class EndedItem:
    """A line of a batch whose job did not succeed."""

    line: int
    custom_id: str
    job_id: str


def list_ended(
    connection: Connection, tenant_id: str, batch_id: str, *, after_line: int, limit: int, with_canceled: bool
) -> list[EndedItem]:
    """The items of the tenant's batch behind line `after_line` (-1: from the first) whose jobs failed, or if wished
    were canceled, at most `limit`, in the order of the manifest.

    Of an erased job nothing is left to try, and a line without a job has to be handed in anew.
    """
    states = [JobState.FAILED, JobState.CANCELED] if with_canceled else [JobState.FAILED]
    mine = (batch_items.c.batch_id == batch_id) & (batch_items.c.tenant_id == tenant_id)
    query = (
        select(batch_items.c.line, batch_items.c.custom_id, batch_items.c.job_id)
        .join(jobs, jobs.c.id == batch_items.c.job_id)
        .where(mine, batch_items.c.line > after_line, jobs.c.state.in_(states), jobs.c.erased_at.is_(None))
        .order_by(batch_items.c.line)
        .limit(limit)
    )
    return [EndedItem(row.line, row.custom_id or str(row.line), row.job_id) for row in connection.execute(query)]


def count_jobless(connection: Connection, batch: BatchSnapshot) -> int:
    """How many lines of this batch, which is over, were canceled before they had a job."""
    if batch.state is not BatchState.CANCELED:
        return 0
    without = batch_items.c.job_id.is_(None) & batch_items.c.error.is_(None)
    query = select(func.count()).where(batch_items.c.batch_id == batch.id, without)
    return batch.total - batch.inserted + connection.execute(query).scalar_one()
