"""Which jobs a claim takes: the order of service, as SQL."""

from typing import Any, Literal

from sqlalchemy import literal_column, select

from common.db.tables import jobs, pools
from common.db.types import now
from common.domain.lifecycle import JobState

Company = Literal["call", "step"]


def choose(pool: str, limit: int, *, alone: bool, company: Company, urgent: bool) -> Any:
    """A select of the ids that one claim takes: the head of the queue and up to `limit - 1` of its company, locked.

    `alone`: the worker holds nothing, and may take a head that must run by itself. `urgent`: only the lane `high`.
    """
    paused = select(pools.c.name).where(pools.c.name == pool, pools.c.paused_at.is_not(None)).exists()
    claimable = (
        (jobs.c.state == JobState.QUEUED)
        & jobs.c.held.is_(None)
        & (jobs.c.pool == pool)
        & (jobs.c.deadline_at > now())
        & jobs.c.cancel_requested_at.is_(None)
    )
    if urgent:  # said as the index says it
        claimable &= jobs.c.lane == literal_column("'high'")
    if urgent and not alone:  # such a head would keep those behind it waiting until a worker is empty
        claimable &= ~jobs.c.solo
    order = (jobs.c.vtime, jobs.c.id)
    head = (
        select(jobs.c.id, jobs.c.step_key, jobs.c.call_key, jobs.c.solo)
        .where(claimable, ~paused)
        .order_by(*order)
        .limit(1)
        .with_for_update(skip_locked=True)
        .cte("head")
    )
    alike = (jobs.c.step_key == select(head.c.step_key).where(~head.c.solo).scalar_subquery()) & (
        jobs.c.id != select(head.c.id).scalar_subquery()
    )
    if company == "call":
        alike &= jobs.c.call_key == select(head.c.call_key).scalar_subquery()
    others = (
        select(jobs.c.id)
        .where(claimable, ~jobs.c.solo, alike)
        .order_by(*order)
        .limit(limit - 1)
        .with_for_update(skip_locked=True)
        .cte("others")
    )
    may_take_head = select(head.c.id) if alone else select(head.c.id).where(~head.c.solo)
    return may_take_head.union_all(select(others.c.id))
