"""What the sweeper forgets of webhooks: old deliveries, and endpoints of jobs and batches that have no more to tell."""

from sqlalchemy import Connection, and_, delete, exists, or_, select

from common.db.tables import batches, deliveries, jobs, webhooks
from common.db.types import after_now
from common.db.webhooks import is_owned
from common.domain.lifecycle import TERMINAL

PAGE = 500


def forget_deliveries(connection: Connection, log_seconds: float) -> int:
    """Remove one page of deliveries that ended longer ago than this. Returns how many."""
    old = deliveries.c.ended_at < after_now(-log_seconds)
    page = select(deliveries.c.id).where(old).order_by(deliveries.c.ended_at).limit(PAGE)
    return connection.execute(delete(deliveries).where(old, deliveries.c.id.in_(page))).rowcount


def forget_own_webhooks(connection: Connection, log_seconds: float, after: str = "") -> str:
    """Look at one page of the endpoints of jobs and batches, behind the id `after`, and remove those that are of no use
    any more: without deliveries, of a job or batch that ended longer ago than this, or of a job that was erased.

    Returns where the next page begins, "" after the last.
    """
    query = select(webhooks.c.id).where(is_owned(), webhooks.c.id > after).order_by(webhooks.c.id).limit(PAGE)
    ids = list(connection.execute(query).scalars())
    is_over = or_(jobs.c.finished_at < after_now(-log_seconds), jobs.c.erased_at.is_not(None))
    job_has_ended = exists().where(jobs.c.id == webhooks.c.job_id, jobs.c.state.in_(TERMINAL), is_over)
    old_batch = and_(batches.c.id == webhooks.c.batch_id, batches.c.finished_at < after_now(-log_seconds))
    has_ended = or_(job_has_ended, exists().where(old_batch))
    is_needed = exists().where(deliveries.c.webhook_id == webhooks.c.id)
    connection.execute(delete(webhooks).where(webhooks.c.id.in_(ids), has_ended, ~is_needed))
    return ids[-1] if len(ids) == PAGE else ""
