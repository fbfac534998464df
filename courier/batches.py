"""The errand of batches: check all lines, insert their jobs chunk by chunk, then see to what is wished till the end.

A courier holds a batch for a turn at most, so that one batch keeps nobody waiting. One that dies is followed by
another, which goes on at the cursors; every write is fenced by the take.
"""

from contextlib import suppress
from typing import Final

import structlog

from common.db.batch_work import BatchWork, put_back, take
from common.domain.batch import BatchState
from common.domain.errors import Unavailable
from common.images.sandbox import DecoderUnavailable
from common.storage.port import StoreUnavailable
from courier.batch_lines import LineReader
from courier.batch_turns import LeaseLost, Turn
from courier.batch_wishes import follow_wishes
from courier.batch_writing import end_stuck, insert_lines, validate_lines
from courier.tools import Tools

_AWAY_SECONDS: Final = 5.0
_STUMBLED_SECONDS: Final = 60.0
_AT_ONCE: Final = 0.0

_log = structlog.get_logger()


def tend_batch(tools: Tools, *, chunk: int | None = None) -> int:
    """Take the batch that is due and do what it needs. Returns how many were taken.

    `chunk`: the most lines of one transaction; default: the setting.
    """
    if not tools.batch_turns.acquire(blocking=False):
        return 0
    try:
        work = tools.database.transact(lambda connection: take(connection, tools.settings.lease_seconds))
        if work is None:
            return 0
        _take_turn(tools, work, chunk or tools.settings.batch_chunk)
    finally:
        tools.batch_turns.release()
    return 1


def _take_turn(tools: Tools, work: BatchWork, chunk: int) -> None:
    with structlog.contextvars.bound_contextvars(batch_id=work.id):
        turn = Turn(tools, work, chunk)
        try:
            seconds = _tend(turn)
            tools.stumbles.forget(work)
        except LeaseLost:
            _log.info("batch.lost")  # to another courier, or canceled meanwhile
            return
        except (StoreUnavailable, DecoderUnavailable) as error:
            _log.warning("batch.postponed", error=type(error).__name__)
            seconds = _AWAY_SECONDS
        except Unavailable:
            with suppress(Unavailable):
                _put_back(turn, _AWAY_SECONDS)
            raise
        except Exception as error:  # the edge of one batch: it must not be taken again and again
            _log.error("batch.stumbled", exc_info=error)
            tools.stumbles.add(turn.work)
            seconds = _STUMBLED_SECONDS
        _put_back(turn, seconds)


def _tend(turn: Turn) -> float | None:
    """In so many seconds there is more to do; None: never again."""
    work = turn.work
    is_whole = work.inserted == work.total and work.state is not BatchState.VALIDATING
    if is_whole:
        return follow_wishes(turn)
    if work.state is BatchState.VALIDATING and turn.is_stuck():
        end_stuck(turn)
        return None
    reader = LineReader(turn.tools, work)
    if work.state is BatchState.VALIDATING and not validate_lines(turn, reader):
        return _next_look(turn.work)
    insert_lines(turn, reader)
    return _next_look(turn.work)


def _put_back(turn: Turn, seconds: float | None) -> None:
    turn.tools.database.transact(lambda connection: put_back(connection, turn.work, seconds))


def _next_look(work: BatchWork) -> float | None:
    return None if work.state.is_terminal else _AT_ONCE
