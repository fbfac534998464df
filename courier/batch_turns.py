"""One courier's turn at a batch: what it holds, and for how long."""

from collections.abc import Callable
from typing import Final, TypeVar

from sqlalchemy import Connection

from common.clock import monotonic_seconds
from common.db.batch_work import BatchWork, look_again, renew
from courier.tools import Tools

TURN_SECONDS: Final = 30.0
"""After so long other errands get this thread."""
MOST_STUMBLES: Final = 5
"""So often in a row this program may fall over the same lines, before they are given up."""

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
        self._looked_at = monotonic_seconds()
        self._ends_at = self._looked_at + TURN_SECONDS

    def is_over(self) -> bool:
        """Whether to let go of the batch now: the courier stops, or others wait."""
        return self.tools.stop.is_set() or monotonic_seconds() >= self._ends_at

    def is_stuck(self) -> bool:
        """Whether to try no more what comes next; of a batch whose cancel is wished sooner, since nothing is lost."""
        most = 1 if self.work.cancel_requested else MOST_STUMBLES
        return self.tools.stumbles.count(self.work) >= most

    def look(self) -> BatchWork:
        """The batch as it is now, under a new lease. Raises `LeaseLost`."""
        work = self.tools.database.transact(lambda c: look_again(c, self.work, self.lease_seconds))
        if work is None:
            raise LeaseLost
        self.work = work
        self._looked_at = monotonic_seconds()
        return work

    def hold_on(self) -> None:
        """To be called often in what may take long: has a new lease now and then. Raises `LeaseLost`."""
        if monotonic_seconds() - self._looked_at > self.lease_seconds / 4:
            self.look()

    def write(self, change: Callable[[Connection], Answer]) -> Answer:
        """This change under a new lease, in one transaction. Raises `LeaseLost`."""

        def write(connection: Connection) -> Answer:
            if not renew(connection, self.work, self.lease_seconds):
                raise LeaseLost
            return change(connection)

        return self.tools.database.transact(write)
