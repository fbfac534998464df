"""Watching many jobs at once: what changed, the snapshots of that, and the transitions that led there."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Final, TypeVar

from sqlalchemy import Connection, Row, select, tuple_

from common.db.jobs import find_jobs
from common.db.tables import job_events, job_progress, jobs
from common.domain.lifecycle import JobState
from common.domain.snapshot import JobSnapshot
from common.domain.watching import JobEvent, Mark

IDS_A_QUERY: Final = 1000
# A job that made more transitions than this between two looks gets the newest ones; the others are in its history.
NEWEST_EVENTS: Final = 50
_JOBS_A_QUERY: Final = 200
_QUERIES_OF_SNAPSHOTS: Final = 3

Item = TypeVar("Item")


@dataclass(slots=True)
class Look:
    """What one look at watched jobs found: those whose marks had changed, and what it took.

    `events` are by job and in their order, without gaps up to the snapshot's version. `missing` have no row (any more),
    `unreadable` one that this release cannot read, with this mark.
    """

    changed: list[JobSnapshot] = field(default_factory=list)
    events: dict[str, list[JobEvent]] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)
    unreadable: dict[str, Mark] = field(default_factory=dict)
    queries: int = 0


def look_at_changes(connection: Connection, known: Mapping[str, Mark]) -> Look:
    """What has changed since the looks that `known` marks, of jobs of any tenant.

    One query for each 1000 jobs; of those that changed up to four more for each 200.
    """
    look = Look()
    marks: dict[str, Mark] = {}
    for ids in _pages(known, IDS_A_QUERY):
        marks |= _read_marks(connection, ids)
        look.queries += 1
    look.missing = [job_id for job_id in known if job_id not in marks]
    changes = {job_id: (known[job_id], mark) for job_id, mark in marks.items() if mark != known[job_id]}
    for ids in _pages(changes, _JOBS_A_QUERY):
        _read_changed(connection, ids, changes, look)
    return look


def read_events(connection: Connection, job_id: str, *, after: int, until: int, limit: int) -> list[JobEvent]:
    """The job's transitions with `after` < version <= `until`, the first `limit` of them in their order."""
    between = (job_events.c.version > after) & (job_events.c.version <= until)
    query = _events().where(job_events.c.job_id == job_id, between).order_by(job_events.c.version).limit(limit)
    return [_event(row) for row in connection.execute(query)]


def _read_changed(
    connection: Connection, job_ids: list[str], changes: Mapping[str, tuple[Mark, Mark]], look: Look
) -> None:
    """Snapshots and events of these jobs. One that a newer release wrote must not hide the others."""
    look.queries += _QUERIES_OF_SNAPSHOTS + 1
    try:
        found = find_jobs(connection, job_ids)
        events = _read_news(connection, found, changes)
    except (KeyError, TypeError, ValueError):
        if len(job_ids) == 1:
            look.unreadable[job_ids[0]] = changes[job_ids[0]][1]
            return
        half = len(job_ids) // 2
        for ids in (job_ids[:half], job_ids[half:]):
            _read_changed(connection, ids, changes, look)
    else:
        look.changed += found
        look.events |= events


def _read_marks(connection: Connection, job_ids: list[str]) -> dict[str, Mark]:
    progress = (job_progress.c.job_id == jobs.c.id) & (job_progress.c.fence == jobs.c.fence)
    columns = (
        jobs.c.id,
        jobs.c.state,
        jobs.c.version,
        jobs.c.cancel_requested_at,
        jobs.c.held,
        jobs.c.erased_at,
        job_progress.c.seq,
        job_progress.c.preview_seq,
    )
    query: Any = select(*columns).outerjoin(job_progress, progress).where(jobs.c.id.in_(job_ids))
    return {row.id: _mark(row) for row in connection.execute(query)}


def _mark(row: Row[Any]) -> Mark:
    """As `mark_of` makes it of the snapshot: what a job that does not run has reported counts no more."""
    is_running = row.state == JobState.RUNNING
    return Mark(
        version=row.version,
        progress_seq=(row.seq or 0) if is_running else 0,
        preview_seq=(row.preview_seq or 0) if is_running else 0,
        cancel_requested=row.cancel_requested_at is not None,
        is_free=row.held is None,
        is_erased=row.erased_at is not None,
    )


def _read_news(
    connection: Connection, found: Sequence[JobSnapshot], changes: Mapping[str, tuple[Mark, Mark]]
) -> dict[str, list[JobEvent]]:
    """The events of versions that are new, up to those of the snapshots, which have been read before."""
    wanted = [(job.id, version) for job in found for version in _new_versions(changes[job.id][0].version, job.version)]
    events: dict[str, list[JobEvent]] = {}
    if wanted:
        these = tuple_(job_events.c.job_id, job_events.c.version).in_(wanted)
        own = job_events.c.job_id.in_({job_id for job_id, _ in wanted})  # SQLite finds no index for pairs alone
        query = _events().where(own, these)
        for row in connection.execute(query.order_by(job_events.c.job_id, job_events.c.version)):
            events.setdefault(row.job_id, []).append(_event(row))
    return events


def _new_versions(before: int, now: int) -> range:
    return range(max(before, now - NEWEST_EVENTS) + 1, now + 1)


def _events() -> Any:
    columns = ("job_id", "version", "kind", "payload", "created_at")
    return select(*(job_events.c[name] for name in columns))


def _event(row: Row[Any]) -> JobEvent:
    payload = row.payload
    return JobEvent(
        job_id=row.job_id,
        version=row.version,
        kind=row.kind,
        state=JobState(payload["state"]),
        attempt=payload["attempt"],
        error=payload.get("error"),
        at=row.created_at,
    )


def _pages(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    rest = iter(items)
    while page := list(islice(rest, size)):
        yield page
