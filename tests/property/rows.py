"""The rows of all jobs in the shape in which the model has them; and a database that hurries."""

from collections import defaultdict
from typing import Any

from sqlalchemy import Connection, event, select

from common.db.engine import Database
from common.db.tables import (
    attempts,
    flows,
    images,
    job_events,
    job_progress,
    job_requests,
    job_steps,
    jobs,
    object_refs,
    objects,
    pools,
    workers,
)
from tests.property.model import Job, Model

Seen = dict[str, dict[str, Any]]

_COLUMNS = ("held", "version", "fence", "tries", "attempt", "solo", "solo_crashes")
_WRITTEN = (
    attempts,
    images,
    job_events,
    job_progress,
    job_requests,
    job_steps,
    object_refs,
    objects,
    jobs,
    workers,
    flows,
    pools,
)


def hurry(database: Database) -> None:
    """From now on commits of this database wait for no disk: what a crash of the machine would lose is not the test."""
    saying = "PRAGMA synchronous = OFF" if database.is_sqlite else "SET synchronous_commit = off"

    def configure(connection: Any, _record: Any) -> None:
        cursor = connection.cursor()
        cursor.execute(saying)
        cursor.close()
        if not database.is_sqlite:
            connection.commit()

    database.engine.dispose()
    event.listen(database.engine, "connect", configure)


def clear(database: Database) -> None:
    """Remove what a history has written; for a few rows this is much faster than TRUNCATE."""
    with database.write() as connection:
        for table in _WRITTEN:
            connection.execute(table.delete())


def seen(connection: Connection) -> Seen:
    """What stands in the database, job by job."""
    found: Seen = {row.id: _hot(row) for row in connection.execute(select(jobs))}
    for row in connection.execute(select(attempts).order_by(attempts.c.fence)):
        how = (row.worker_id, row.joined_at is not None, row.outcome, row.error_code)
        found[row.job_id]["attempts"][row.fence] = how
    for row in connection.execute(
        select(job_events.c.job_id, job_events.c.version, job_events.c.kind).order_by(job_events.c.version)
    ):
        found[row.job_id]["events"].append((row.version, row.kind))
    for row in connection.execute(select(images.c.job_id, images.c.fence)):
        found[row.job_id]["images"].append(row.fence)
    for row in connection.execute(select(job_steps.c.job_id, job_steps.c.step, job_steps.c.fence)):
        found[row.job_id]["steps"][row.step] = row.fence
    return found


def expected(model: Model) -> Seen:
    """What must stand there."""
    return {job.id: _expected(job) for job in model.jobs.values()}


def _hot(row: Any) -> dict[str, Any]:
    own = {name: getattr(row, name) for name in _COLUMNS}
    own |= {"state": row.state, "worker": row.worker_id, "code": row.error["code"] if row.error else None}
    own |= {"lane": row.lane, "vtime": row.vtime, "wish": row.cancel_requested_at is not None}
    own |= {"is_erased": row.erased_at is not None}
    own |= {"has_started": row.started_at is not None, "has_finished": row.finished_at is not None}
    return own | {"attempts": {}, "events": [], "images": [], "steps": defaultdict(int)}


def _expected(job: Job) -> dict[str, Any]:
    own = {name: getattr(job, name) for name in _COLUMNS}
    own |= {"state": job.state.value, "worker": job.worker, "code": job.code}
    own |= {"lane": job.lane.value, "vtime": job.vtime, "wish": job.is_cancel_wished}
    own |= {"is_erased": job.is_erased}
    own |= {"has_started": job.attempt > 0, "has_finished": job.state.is_terminal}
    return own | {
        "attempts": {fence: (one.worker, one.has_joined, one.outcome, one.code) for fence, one in job.attempts.items()},
        "events": list(enumerate(job.events, start=1)),
        "images": [] if job.image_fence is None else [job.image_fence],
        "steps": job.steps,
    }
