"""Counts of batches: from the rows while they change, kept with the batch once they cannot any more."""

from dataclasses import asdict
from typing import Any

from sqlalchemy import ColumnElement, Connection, Row, case, func, select, update

from common.db.tables import batch_items, batches, jobs
from common.domain.batch import BatchCounts, BatchState, counts_of
from common.domain.lifecycle import JobState


def counted() -> list[ColumnElement[Any]]:
    """Columns beside those of `batches`: how many jobs are in each state, and how many lines were wrong.

    In one statement with the batch, so that they are of one moment. Null where the counts are kept: a list of batches
    that are over reads no jobs.
    """
    wrong = select(func.count()).where(batch_items.c.batch_id == batches.c.id, batch_items.c.error.is_not(None))
    return [*(_live(_jobs_in(state), f"{state}_jobs") for state in JobState), _live(wrong, "wrong")]


def counts_in(row: Row[Any]) -> BatchCounts:
    """The counts of a row of `batches` with the columns of `counted`."""
    if row.final_counts is not None:
        return BatchCounts(**row.final_counts)
    members = row._mapping
    by_state = {state: int(members[f"{state}_jobs"]) for state in JobState}
    return counts_of(BatchState(row.state), row.total, by_state, row.wrong)


def keep_counts(connection: Connection, batch_id: str) -> None:
    """Keep the counts of a batch that is over, for ever. In the transaction that ends it: no job of it, and no line,
    changes its state after that.
    """
    mine = batches.c.id == batch_id
    columns = (batches.c.state, batches.c.total, batches.c.final_counts)
    row = connection.execute(select(*columns, *counted()).where(mine)).one()
    connection.execute(update(batches).where(mine).values(final_counts=asdict(counts_in(row))))


def _jobs_in(state: JobState) -> Any:
    return select(func.count()).where(jobs.c.batch_id == batches.c.id, jobs.c.state == state)


def _live(count: Any, name: str) -> ColumnElement[Any]:
    # CASE, and no condition inside: this is what both databases do not evaluate where it is not asked for.
    return case((batches.c.final_counts.is_(None), count.correlate(batches).scalar_subquery())).label(name)
