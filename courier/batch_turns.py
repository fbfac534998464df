"""One courier's turn at a batch: what it holds, and for how long."""

from collections.abc import Callable
from typing import Final, TypeVar

from sqlalchemy import Connection

from common.clock import monotonic_seconds
from common.db.batch_work import BatchWork, look_again, renew
from courier.tools import Tools

TURN_SECONDS: Final = 30.0
"""After so long other errands get this thread."""

Answer = TypeVar("Answer")


class LeaseLost(Exception):
    """The batch is held by another, or its state is not what it was: nothing more may be written."""


class Turn:
    """A batch in hand; `work` is as it was at the last look, `chunk` the most lines of one transaction."""

    def __init__(self, tools: Tools, work: BatchWork, chunk: int) -> None:
        self.tools = tools
        self.work = work
        self.chunk = chunk
        self.lease_seconds = tools.settings.lease_seconds
        self._ends_at = monotonic_seconds() + TURN_SECONDS

    def is_over(self) -> bool:
        """Whether to let go of the batch now: the courier stops, or others wait."""
        return self.tools.stop.is_set() or monotonic_seconds() >= self._ends_at

    def look(self) -> BatchWork:
        """The batch as it is now, under a new lease. Raises `LeaseLost`."""
        work = self.tools.database.transact(lambda c: look_again(c, self.work, self.lease_seconds))
        if work is None:
            raise LeaseLost
        self.work = work
        return work

    def write(self, change: Callable[[Connection], Answer]) -> Answer:
        """This change under a new lease, in one transaction. Raises `LeaseLost`."""

        def write(connection: Connection) -> Answer:
            if not renew(connection, self.work, self.lease_seconds):
                raise LeaseLost
            return change(connection)

        return self.tools.database.transact(write)
