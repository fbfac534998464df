"""I1, I7 and I10 of batches at rest: each is over, its lines stand each once, and its counts are a recount."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from sqlalchemy import Row, select

from common.db.batches import find_batch
from common.db.engine import Database
from common.db.tables import batch_items, batches, jobs
from common.domain.batch import BatchSnapshot, BatchState
from common.domain.lifecycle import JobState

Rows = Sequence[Row[Any]]


def batch_violations(database: Database, *, at_rest: bool = True) -> Iterator[str]:
    """What is wrong, in words. Without `at_rest` batches may still be on their way; the rest holds at every moment."""
    with database.read() as connection:
        standing = list(connection.execute(select(batches)))
        for row in standing:
            items = list(connection.execute(select(batch_items).where(batch_items.c.batch_id == row.id)))
            own = connection.execute(select(jobs.c.id, jobs.c.tenant_id, jobs.c.state).where(jobs.c.batch_id == row.id))
            by_id = {job.id: job for job in own}
            told = find_batch(connection, row.tenant_id, row.id)
            if told is None:
                yield f"I7 {row.id} is not found by its tenant"
                continue
            if database.is_sqlite or at_rest:  # elsewhere each statement looks at a moment of its own
                yield from _wrong_counts(told, items, by_id)
            yield from _wrong_lines(row, items, by_id)
            yield from _mixed_tenants(row, items, by_id)
            if at_rest and not BatchState(row.state).is_terminal:
                yield f"I1 {row.id} is still {row.state}, {row.inserted} of {row.total} lines inserted"


def _wrong_counts(told: BatchSnapshot, items: Rows, own: Mapping[str, Row[Any]]) -> Iterator[str]:
    """I7: the counts are a recount, and add up."""
    counts = asdict(told.counts)
    total = counts.pop("total")
    if sum(counts.values()) != total or total != told.total:
        yield f"I7 {told.id} has {told.total} lines, and its counts are {asdict(told.counts)}"
    real = Counter(JobState(job.state) for job in own.values())
    wrong = sum(item.error is not None for item in items)
    for state in (JobState.RUNNING, JobState.SUCCEEDED):
        if counts[state] != real[state]:
            yield f"I7 {told.id} tells {counts[state]} {state} jobs, and the rows are {real[state]}"
    if told.state is not BatchState.REJECTED and counts["failed"] != real[JobState.FAILED] + wrong:
        yield f"I7 {told.id} tells {counts['failed']} failed: {real[JobState.FAILED]} jobs and {wrong} lines did"


def _wrong_lines(row: Row[Any], items: Rows, own: Mapping[str, Row[Any]]) -> Iterator[str]:
    """I7: the lines up to the cursor stand, each once, and each job of the batch is of one of them."""
    if sorted(item.line for item in items) != list(range(row.inserted)):
        yield f"I7 {row.id} has inserted {row.inserted} lines, and {len(items)} items stand"
    named = [item.job_id for item in items if item.job_id is not None]
    if sorted(named) != sorted(own):
        yield f"I7 {row.id} has {len(own)} jobs, and its items name {len(named)}, {len(set(named))} of them different"
    if row.state == BatchState.COMPLETED:
        bare = [item.line for item in items if (item.job_id is None) == (item.error is None)]
        if bare or row.inserted != row.total:
            yield f"I7 {row.id} is completed with {row.inserted} of {row.total} lines, {bare} without job or error"


def _mixed_tenants(row: Row[Any], items: Rows, own: Mapping[str, Row[Any]]) -> Iterator[str]:
    """I10: what belongs to a batch belongs to its tenant."""
    if {one.tenant_id for one in (*items, *own.values())} - {row.tenant_id}:
        yield f"I10 {row.id} has items or jobs of another tenant"
