"""What is wished of a batch that stands: cancel, pause, go on. Done chunk by chunk, by what is, not by what changed."""

from collections.abc import Callable
from typing import Final

import structlog
from sqlalchemy import Connection

from common.db.batch_wishes import Cursor, Released, cancel_some, count_queued, draw_together, hold_some, release_some
from common.db.batch_work import note_retagged, settle_batch
from common.domain.batch import BatchState
from courier.batch_turns import Turn

_PAUSED_SECONDS: Final = 3.0
_AT_ONCE: Final = 0.0
_MANY: Final = 200
_MANY_SECONDS: Final = 10.0

_log = structlog.get_logger()


def follow_wishes(turn: Turn) -> float | None:
    """Bring the jobs to where the batch is, which is whole. Returns in how many seconds to look again; None when it is
    over.
    """
    work = turn.work
    if not move_jobs(turn) or not _draw_together(turn):
        return _AT_ONCE
    state = turn.tools.database.transact(lambda connection: settle_batch(connection, work))
    if state is not None:
        _log.info("batch.ended", state=state)
        return None
    return _PAUSED_SECONDS if work.state is BatchState.PAUSED else _seconds_to_next(turn)


def move_jobs(turn: Turn) -> bool:
    """Cancel, hold or release all jobs that stand, as is wished. False when the turn is over before it is done."""
    if turn.work.cancel_requested:
        return _repeat(turn, cancel_some)
    if turn.work.state is BatchState.PAUSED:
        return _repeat(turn, hold_some)
    return _release(turn)


def _seconds_to_next(turn: Turn) -> float:
    """The more jobs wait, the later it can be over."""
    with turn.tools.database.read() as connection:
        queued = count_queued(connection, turn.work.id, most=_MANY)
    return max(turn.tools.settings.poll_seconds, _MANY_SECONDS * queued / _MANY)


def _repeat(turn: Turn, some: Callable[[Connection, str], int]) -> bool:
    while turn.write(lambda connection: some(connection, turn.work.id)):
        if turn.is_over():
            return False
    return True


def _draw_together(turn: Turn) -> bool:
    """The order of service closes the gap that the batch has left, once for each pause or cancel.

    False when that is not done, or another one has come meanwhile.
    """
    work = turn.work
    if work.is_retagged or not (work.cancel_requested or work.state is BatchState.PAUSED):
        return True
    at: Cursor | None = None

    def draw(connection: Connection) -> Cursor | None:
        return draw_together(connection, turn.work.id, turn.tools.paces.scale, at)

    while (at := turn.write(draw)) is not None:
        if turn.is_over():
            return False
    return turn.write(lambda connection: note_retagged(connection, turn.work))


def _release(turn: Turn) -> bool:
    def release(connection: Connection) -> Released:
        return release_some(connection, turn.work.id, turn.tools.paces.scale)

    while (released := turn.write(release)).pools:
        for pool, jobs in released.pools.items():
            turn.tools.doorbell.ring(pool, jobs)
        if turn.is_over():
            return False
    return True
