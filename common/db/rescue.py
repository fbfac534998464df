"""What the sweeper heals, page by page: expired leases, ended queued jobs, due delays, dead workers, old keys."""

from collections.abc import Container
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import structlog
from sqlalchemy import Connection, Row, delete, exists, literal, select, tuple_, update
from sqlalchemy.exc import DataError, IntegrityError

from common import failpoints
from common.db.moves import end_attempts, hold_of_batch, move_jobs, return_job
from common.db.tables import attempts, idempotency_keys, jobs, pools, workers
from common.db.types import after_now, now
from common.domain.errors import JobFailure
from common.domain.lifecycle import CANCEL_QUEUED, FAIL, FAIL_QUEUED, RESCUE, JobState, Outcome
from common.domain.retry import GiveUp, ProcessEnd, TryAgain, after_loss, is_solo_crash

PAGE = 100
# Small, because each is one transaction and its first job waits for the last.
RESCUE_PAGE = 20

_log = structlog.get_logger()

_LOST = {
    "worker_lost": "the worker was lost every time that it ran the job",
    "poisoned": "the job crashed its worker twice while it was alone in it",
}


Cursor = tuple[datetime, str]


@dataclass(frozen=True, slots=True)
class Rescued:
    """What became of one page: the ids that moved and those that could not be, and where the next page begins; None
    after the last.
    """

    ids: list[str]
    refused: list[str]
    following: Cursor | None


def rescue_expired(
    connection: Connection,
    jitter: float,
    *,
    lease_seconds: float = 0.0,
    after: Cursor | None = None,
    leave_out: Container[str] = (),
) -> Rescued:
    """One page of jobs whose lease ran out, the latest first, but for some: queued again, or failed. What cannot be
    moved holds up nothing: it grows old, and what has just run out comes before it.

    While no worker of a job's pool has beaten within a lease, they may all have been kept from the database: the job is
    left alone for one lease more. Nobody could run it meanwhile.
    """
    page = _expired(connection, lease_seconds, after)
    tried = [row for row in page if row.id not in leave_out]
    groups: dict[_Verdict, list[Row[Any]]] = {}
    for row in tried:
        groups.setdefault(_judge(row, jitter), []).append(row)
    moved = [job_id for verdict, rows in groups.items() for job_id in _rescue_safely(connection, verdict, rows)]
    refused = [row.id for row in tried if row.id not in moved]
    return Rescued(moved, refused, (page[-1].lease_until, page[-1].id) if len(page) == RESCUE_PAGE else None)


def end_queued(connection: Connection) -> int:
    """End one page of queued jobs with a wish to cancel or a passed deadline. Returns how many."""
    canceled = move_jobs(connection, CANCEL_QUEUED, _in_page(jobs.c.cancel_requested_at.is_not(None)))
    error = JobFailure("the deadline passed before a device was free", code="deadline_exceeded").as_dict()
    late = move_jobs(connection, FAIL_QUEUED, _in_page(jobs.c.deadline_at <= now()), {"error": error})
    return len(canceled) + len(late)


def release_delayed(connection: Connection) -> list[str]:
    """Let jobs whose delay is over be claimed again, unless their batch is paused. Returns their pools."""
    due = (jobs.c.held == "delayed") & (jobs.c.run_after <= now())
    page = select(jobs.c.id).where(due).order_by(jobs.c.run_after).limit(PAGE)
    values = {"held": hold_of_batch(), "run_after": None}
    statement = update(jobs).where(due, jobs.c.id.in_(page)).values(values).returning(jobs.c.pool)
    return [row.pool for row in connection.execute(statement)]


def forget_workers(connection: Connection, silent_seconds: float) -> int:
    """Remove workers that have been silent for long, keeping their virtual time in the pool. Returns how many."""
    silent = workers.c.heartbeat_at < after_now(-silent_seconds)
    gone = list(connection.execute(delete(workers).where(silent).returning(workers.c.pool, workers.c.served_vtime)))
    for row in gone:
        fold_vtime(connection, row.pool, row.served_vtime)
    return len(gone)


def fold_vtime(connection: Connection, pool: str, vtime: float) -> None:
    """Keep the virtual time of a worker that leaves; it never goes back."""
    connection.execute(update(pools).where(pools.c.name == pool, pools.c.vtime < vtime).values(vtime=vtime))


def forget_idempotency_keys(connection: Connection) -> int:
    """Remove one page of keys past their life. Returns how many."""
    over = idempotency_keys.c.expires_at <= now()
    mine = (idempotency_keys.c.tenant_id, idempotency_keys.c.key)
    page = select(*mine).where(over).limit(PAGE)
    return connection.execute(delete(idempotency_keys).where(over, tuple_(*mine).in_(page))).rowcount


def _in_page(condition: Any) -> Any:
    page = select(jobs.c.id).where(jobs.c.state == JobState.QUEUED, condition).limit(PAGE)
    return condition & jobs.c.id.in_(page)


def _expired(connection: Connection, lease_seconds: float, after: Cursor | None) -> list[Row[Any]]:
    """Expired jobs with what is known of the attempt: whether it joined, and who else was in that process.

    A mate that had not joined is company too: the process may have died before it could say so.
    """
    mates = attempts.alias("mates")
    has_company = exists().where(
        mates.c.worker_id == attempts.c.worker_id,
        mates.c.job_id != attempts.c.job_id,
        mates.c.ended_at.is_(None) | (mates.c.outcome == Outcome.LOST),
    )
    this_attempt = (attempts.c.job_id == jobs.c.id) & (attempts.c.fence == jobs.c.fence)
    beats = workers.alias("beats")
    is_served = exists().where(beats.c.pool == jobs.c.pool, beats.c.heartbeat_at > after_now(-lease_seconds))
    is_long_over = jobs.c.lease_until < after_now(-lease_seconds)
    is_behind = literal(True) if after is None else tuple_(jobs.c.lease_until, jobs.c.id) < after
    query = (
        select(jobs, attempts.c.joined_at, has_company.label("has_company"), workers.c.ended)
        .join(attempts, this_attempt)
        .outerjoin(workers, workers.c.id == jobs.c.worker_id)
        .where(jobs.c.state == JobState.RUNNING, jobs.c.lease_until < now(), is_served | is_long_over, is_behind)
        .order_by(jobs.c.lease_until.desc(), jobs.c.id.desc())
        .limit(RESCUE_PAGE)
        .with_for_update(skip_locked=True, of=jobs)
    )
    return list(connection.execute(query))


@dataclass(frozen=True, slots=True)
class _Verdict:
    """What happens to a job whose worker is gone; `crashes` is 1 when the loss speaks against the job."""

    decision: GiveUp | TryAgain
    crashes: int


def _judge(row: Row[Any], jitter: float) -> _Verdict:
    joined, alone = row.joined_at is not None, not row.has_company
    end = ProcessEnd(row.ended) if row.ended in set(ProcessEnd) else None  # a later release may know more ends
    crashes = int(is_solo_crash(joined=joined, alone=alone, end=end))
    decision = after_loss(
        joined=joined,
        alone=alone,
        solo_crashes=row.solo_crashes + crashes,
        tries=row.tries,
        max_tries=row.max_tries,
        jitter=jitter,
        end=end,
    )
    return _Verdict(decision, crashes)


def _rescue_safely(connection: Connection, verdict: _Verdict, rows: list[Row[Any]]) -> list[str]:
    """All rows at once, or one by one: a row that cannot be moved must not hold up the others."""
    try:
        with connection.begin_nested():
            return _rescue(connection, verdict, rows)
    except (IntegrityError, DataError) as error:
        if len(rows) > 1:
            return [job_id for row in rows for job_id in _rescue_safely(connection, verdict, [row])]
        _log.error("job.not_rescued", job_id=rows[0].id, error=type(error).__name__)
        return []


def _rescue(connection: Connection, verdict: _Verdict, rows: list[Row[Any]]) -> list[str]:
    held = tuple_(jobs.c.id, jobs.c.fence).in_([(row.id, row.fence) for row in rows])
    moved = _apply(connection, held & (jobs.c.lease_until < now()), verdict)
    code = verdict.decision.code if isinstance(verdict.decision, GiveUp) else "worker_lost"
    end_attempts(connection, [(row.id, row.fence) for row in moved], Outcome.LOST, code)
    failpoints.hit("sweeper.page")
    return [row.id for row in moved]


def _apply(connection: Connection, condition: Any, verdict: _Verdict) -> list[Row[Any]]:
    decision, crashes = verdict.decision, jobs.c.solo_crashes + verdict.crashes
    moved: list[Row[Any]] = []
    if isinstance(decision, GiveUp):
        error = JobFailure(_LOST[decision.code], code=decision.code).as_dict()
        is_wanted = jobs.c.cancel_requested_at.is_(None) & (jobs.c.deadline_at > now())
        moved = move_jobs(connection, FAIL, condition & is_wanted, {"error": error, "solo_crashes": crashes})
        decision = TryAgain()  # for the others: a wish to cancel and a passed deadline come first, on the last try too
    values: dict[str, Any] = {"solo": jobs.c.solo | decision.solo, "solo_crashes": crashes}
    if decision.delay_seconds > 0:
        values |= {"held": "delayed", "run_after": after_now(decision.delay_seconds)}
    return moved + return_job(connection, RESCUE, condition, values)
