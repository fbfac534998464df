"""Applying a move of the lifecycle: one conditional UPDATE, one event per moved job and its deliveries, in the
caller's transaction.

Nothing else writes `jobs.state`.
"""

from collections import Counter
from typing import Any

from sqlalchemy import Connection, Row, case, exists, func, insert, literal, select, tuple_, type_coerce, update
from sqlalchemy.sql.elements import ColumnElement

from common.db.announcing import Event, announce_events
from common.db.bulk import insert_rows
from common.db.tables import attempts, batches, job_events, job_requests, jobs
from common.db.types import Document, after_now, now, read_clock
from common.db.usage import NOTHING, Used, account
from common.domain.batch import BatchState
from common.domain.errors import JobFailure
from common.domain.lifecycle import TERMINAL_EVENTS, Hold, JobState, Move, Outcome
from common.domain.webhook_events import STARTED_EVENT

Condition = ColumnElement[bool]

_MANY = 100
_DEADLINE_ERROR = JobFailure("the deadline passed before the job was done", code="deadline_exceeded").as_dict()
_RETURNED = (jobs.c.id, jobs.c.tenant_id, jobs.c.state, jobs.c.version, jobs.c.attempt, jobs.c.error, jobs.c.fence)


def holds(job_id: str, fence: int) -> Condition:
    """The condition that an attempt still holds its job."""
    return (jobs.c.id == job_id) & (jobs.c.fence == fence)


def move_jobs(
    connection: Connection, move: Move, condition: Condition, values: dict[str, Any] | None = None, used: Used = NOTHING
) -> list[Row[Any]]:
    """Make a move with one target for every job that matches, and write its events.

    `used`: by the one attempt that the condition names; it goes to the tenant's account with the jobs that ended.

    Returns the moved rows (id, tenant_id, state, version, attempt, error, fence); none means that it was not allowed.
    """
    settled = {"state": move.target, **_leaving(move.source), **(_finishing() if move.target.is_terminal else {})}
    return _apply(connection, move, condition, settled | (values or {}), used)


def return_job(
    connection: Connection, move: Move, condition: Condition, values: dict[str, Any] | None = None, used: Used = NOTHING
) -> list[Row[Any]]:
    """Make a move that takes a running job off its worker: a wish to cancel and a passed deadline come first.

    `values` hold for a job that is queued again; `run_after` is honoured by holding the job until then. Without `held`
    it is held if its batch is paused.
    """
    values = dict(values or {})
    goes_back = jobs.c.cancel_requested_at.is_(None) & (jobs.c.deadline_at > now())
    state = case(
        (jobs.c.cancel_requested_at.is_not(None), literal(JobState.CANCELED.value)),
        (jobs.c.deadline_at <= now(), literal(JobState.FAILED.value)),
        else_=literal(JobState.QUEUED.value),
    )
    held, run_after = values.pop("held", None), values.pop("run_after", None)
    late = jobs.c.cancel_requested_at.is_(None) & (jobs.c.deadline_at <= now())
    settled = _leaving(move.source) | {
        "state": state,
        "held": case((goes_back, hold_of_batch() if held is None else literal(held)), else_=None),
        "run_after": None if run_after is None else case((goes_back, run_after), else_=None),
        "error": case((late, type_coerce(literal(_DEADLINE_ERROR, Document), Document)), else_=None),
        "finished_at": case((goes_back, None), else_=now()),
        "expires_at": case((goes_back, None), else_=_expiry()),
    }
    return _apply(connection, move, condition, settled | values, used)


def hold_of_batch() -> ColumnElement[Any]:
    """What holds a job (of `jobs` in the statement around) that comes back to the queue now: `paused`, or nothing.

    A pause or resume that commits meanwhile is not seen; the next tending of the batch sets that right.
    """
    is_paused = exists().where(batches.c.id == jobs.c.batch_id, batches.c.state == BatchState.PAUSED).correlate(jobs)
    return case((is_paused, literal(Hold.PAUSED.value)), else_=None)


def end_attempt(connection: Connection, job_id: str, fence: int, outcome: Outcome, code: str | None = None) -> None:
    """Close the attempt's row, once."""
    end_attempts(connection, [(job_id, fence)], outcome, code)


def end_attempts(
    connection: Connection, names: list[tuple[str, int]], outcome: Outcome, code: str | None = None
) -> None:
    """Close the rows of these attempts, named by job and fence, once."""
    if names:
        mine = tuple_(attempts.c.job_id, attempts.c.fence).in_(names) & attempts.c.ended_at.is_(None)
        connection.execute(update(attempts).where(mine).values(ended_at=now(), outcome=outcome, error_code=code))


def write_event(connection: Connection, row: Row[Any], kind: str, payload: dict[str, Any]) -> None:
    """One row of the outbox, and its deliveries, for a job that just moved to `row.version`."""
    connection.execute(
        insert(job_events).values(
            job_id=row.id, tenant_id=row.tenant_id, version=row.version, kind=kind, payload=payload
        )
    )
    # It is told once, at the first join.
    if kind != STARTED_EVENT or row.attempt == 1:
        announce_events(connection, [Event(row.tenant_id, row.id, row.version, kind)])


def _apply(
    connection: Connection, move: Move, condition: Condition, values: dict[str, Any], used: Used
) -> list[Row[Any]]:
    statement = (
        update(jobs)
        .where(jobs.c.state == move.source, condition)
        .values(version=jobs.c.version + 1, **values)
        .returning(*_RETURNED)
    )
    rows = list(connection.execute(statement))
    if rows:
        events = [_event_of(move, row) for row in rows]
        _write_events(connection, events)
        announce_events(connection, [Event(e["tenant_id"], e["job_id"], e["version"], e["kind"]) for e in events])
        _account(connection, rows, used)
    return rows


def _write_events(connection: Connection, events: list[dict[str, Any]]) -> None:
    if len(events) < _MANY:
        connection.execute(insert(job_events), events)
        return
    clock = read_clock(connection)
    insert_rows(connection, job_events, [event | {"created_at": clock} for event in events])


def _account(connection: Connection, rows: list[Row[Any]], used: Used) -> None:
    ended = Counter(row.tenant_id for row in rows if JobState(row.state).is_terminal)
    for tenant_id in sorted({row.tenant_id for row in rows}):
        account(connection, tenant_id, jobs=ended[tenant_id], used=used)


def _event_of(move: Move, row: Row[Any]) -> dict[str, Any]:
    state = JobState(row.state)
    payload = {"state": state, "move": move.name, "attempt": row.attempt, "error": row.error}
    kind = TERMINAL_EVENTS.get(state, move.event)
    return {"job_id": row.id, "tenant_id": row.tenant_id, "version": row.version, "kind": kind, "payload": payload}


def _leaving(source: JobState) -> dict[str, Any]:
    """What a state takes along when a job leaves it."""
    if source is JobState.RUNNING:
        return {"worker_id": None, "lease_until": None}
    return {"held": None, "run_after": None, "passed_over_since": None}


def _finishing() -> dict[str, Any]:
    return {"finished_at": now(), "expires_at": _expiry()}


def _expiry() -> Any:
    """After the life that was asked for; what is erased has none.

    That stands in the moved row itself, because an UPDATE that waited for the erasure sees other rows as they were.
    """
    life = select(job_requests.c.expires_in_seconds).where(job_requests.c.job_id == jobs.c.id).scalar_subquery()
    return case((jobs.c.erased_at.is_not(None), now()), else_=after_now(func.coalesce(life, literal(0))))
