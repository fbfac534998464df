"""What is wished of a batch that stands: cancel, pause, go on. Done chunk by chunk, by what is, not by what changed."""

from typing import Final

import structlog
from sqlalchemy import Connection

from common.db.batch_wishes import Cursor, Released, cancel_some, draw_together, hold_some, release_some
from common.db.batch_work import note_retagged, settle_batch
from common.domain.batch import BatchState
from courier.batch_turns import Turn

_PAUSED_SECONDS: Final = 3.0
_AT_ONCE: Final = 0.0

_log = structlog.get_logger()


def follow_wishes(turn: Turn) -> float | None:
    """Bring the jobs to where the batch is. Returns in how many seconds to look again; None when it is over."""
    work = turn.work
    if work.cancel_requested:
        is_done = _cancel(turn)
    elif work.state is BatchState.PAUSED:
        is_done = _hold(turn)
    else:
        is_done = _release(turn)
    if not is_done:
        return _AT_ONCE
    state = turn.tools.database.transact(lambda connection: settle_batch(connection, work))
    if state is not None:
        _log.info("batch.ended", state=state)
        return None
    return _PAUSED_SECONDS if work.state is BatchState.PAUSED else turn.tools.settings.poll_seconds


def _cancel(turn: Turn) -> bool:
    """Cancel every job, and close the gap."""
    while turn.write(lambda connection: cancel_some(connection, turn.work.id)):
        if turn.is_over():
            return False
    return _draw_together(turn)


def _draw_together(turn: Turn) -> bool:
    """The order of service closes the gap that the batch has left, once for each pause or cancel."""
    if turn.work.is_retagged:
        return True
    at: Cursor | None = None

    def draw(connection: Connection) -> Cursor | None:
        return draw_together(connection, turn.work.id, turn.tools.paces.scale, at)

    while (at := turn.write(draw)) is not None:
        if turn.is_over():
            return False
    turn.write(lambda connection: note_retagged(connection, turn.work))
    return True


def _hold(turn: Turn) -> bool:
    """Hold every job, and close the gap: what else the tenant has waits for none of them."""
    while turn.write(lambda connection: hold_some(connection, turn.work.id)):
        if turn.is_over():
            return False
    return _draw_together(turn)


def _release(turn: Turn) -> bool:
    def release(connection: Connection) -> Released:
        return release_some(connection, turn.work.id, turn.tools.paces.scale)

    while (released := turn.write(release)).pools:
        for pool, jobs in released.pools.items():
            turn.tools.doorbell.ring(pool, jobs)
        if turn.is_over():
            return False
    return True
