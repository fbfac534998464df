"""The steps of a cancel, for one job and for thousands: the wish, and letting go of what no device has started."""

from sqlalchemy import Connection, exists, func, update

from common.db.moves import Condition, end_attempts, move_jobs
from common.db.tables import attempts, jobs
from common.db.types import now
from common.domain.lifecycle import CANCEL, JobState, Outcome


def wish_cancel(connection: Connection, condition: Condition) -> int:
    """The wish, on those of these jobs that can still change; a first one keeps its moment. Returns how many."""
    wish = func.coalesce(jobs.c.cancel_requested_at, now())
    may_change = jobs.c.state.in_([JobState.QUEUED, JobState.RUNNING])
    return connection.execute(update(jobs).where(condition, may_change).values(cancel_requested_at=wish)).rowcount


def cancel_unjoined(connection: Connection, condition: Condition) -> int:
    """Cancel those of these jobs that a worker has claimed and no device has started. Returns how many.

    To be called when the jobs are locked, as `wish_cancel` leaves them: an attempt that joined before is then seen.
    """
    joined = exists().where(
        attempts.c.job_id == jobs.c.id, attempts.c.fence == jobs.c.fence, attempts.c.joined_at.is_not(None)
    )
    moved = move_jobs(connection, CANCEL, condition & ~joined)
    end_attempts(connection, [(row.id, row.fence) for row in moved], Outcome.CANCELED)
    return len(moved)
