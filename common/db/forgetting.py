"""What the sweeper forgets of webhooks: old deliveries, and endpoints of jobs that have nothing more to tell."""

from sqlalchemy import Connection, delete, exists, or_, select

from common.db.tables import deliveries, jobs, webhooks
from common.db.types import after_now
from common.domain.lifecycle import TERMINAL

PAGE = 500


def forget_deliveries(connection: Connection, log_seconds: float) -> int:
    """Remove one page of deliveries that ended longer ago than this. Returns how many."""
    old = deliveries.c.ended_at < after_now(-log_seconds)
    page = select(deliveries.c.id).where(old).order_by(deliveries.c.ended_at).limit(PAGE)
    return connection.execute(delete(deliveries).where(old, deliveries.c.id.in_(page))).rowcount


def forget_job_webhooks(connection: Connection, log_seconds: float, after: str = "") -> str:
    """Look at one page of jobs' own endpoints, behind the id `after`, and remove those that are of no use any more:
    without deliveries, of a job that ended longer ago than this or was erased.

    Returns where the next page begins, "" after the last.
    """
    query = (
        select(webhooks.c.id)
        .where(webhooks.c.job_id.is_not(None), webhooks.c.id > after)
        .order_by(webhooks.c.id)
        .limit(PAGE)
    )
    ids = list(connection.execute(query).scalars())
    is_over = or_(jobs.c.finished_at < after_now(-log_seconds), jobs.c.erased_at.is_not(None))
    has_ended = exists().where(jobs.c.id == webhooks.c.job_id, jobs.c.state.in_(TERMINAL), is_over)
    is_needed = exists().where(deliveries.c.webhook_id == webhooks.c.id)
    connection.execute(delete(webhooks).where(webhooks.c.id.in_(ids), has_ended, ~is_needed))
    return ids[-1] if len(ids) == PAGE else ""
