"""What only a launcher knows of the end of a worker process: that it is over, and whether it crashed or was killed."""

import signal
import threading
import time
from collections import deque
from contextlib import closing, suppress
from pathlib import Path
from typing import Final

import structlog

from common.db.engine import Database
from common.db.workers import report_end
from common.domain.errors import Unavailable
from common.domain.retry import ProcessEnd
from common.ids import new_id
from common.settings import Settings

_FROM_OUTSIDE: Final = frozenset({0, -signal.SIGKILL, -signal.SIGTERM, -signal.SIGINT, -signal.SIGHUP, -signal.SIGQUIT})
# Of the container where it has a limit, else of the whole system.
_COUNTERS: Final = (Path("/sys/fs/cgroup/memory.events"), Path("/proc/vmstat"))
_LOOKS: Final = 5
_LOOK_SECONDS: Final = 1.0
_LAST_SECONDS: Final = 3.0

_log = structlog.get_logger()


def judge(exit_code: int, *, ran_out_of_memory: bool) -> ProcessEnd:
    """How a process ended that left this exit code (negative: the signal).

    A SIGKILL comes from outside, unless the system was out of memory: that is the doing of what ran in the process.
    Who ends with 0 has left in good order, or has tried to.
    """
    if exit_code == -signal.SIGKILL and ran_out_of_memory:
        return ProcessEnd.CRASHED
    return ProcessEnd.KILLED if exit_code in _FROM_OUTSIDE else ProcessEnd.CRASHED


class DeathReporter:
    """Writes down how the worker processes of one launcher end, for the sweeper. What cannot be written is not known.

    `token` names the launcher; its workers register under it.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self.token = new_id("wrk")
        self._counts = deque([count_oom_kills()], maxlen=_LOOKS)
        self._looked_at = time.monotonic()
        self._threads: list[threading.Thread] = []

    def look(self) -> None:
        """Keep the counter of the last seconds, so that an older death of another process means nothing here."""
        if time.monotonic() - self._looked_at >= _LOOK_SECONDS:
            self._looked_at = time.monotonic()
            self._counts.append(count_oom_kills())

    def __call__(self, pid: int, exit_code: int) -> None:
        """A worker process has ended. Returns at once; a thread of its own writes."""
        end = judge(exit_code, ran_out_of_memory=count_oom_kills() > self._counts[0])
        thread = threading.Thread(target=self._write, args=(pid, end), name="death", daemon=True)
        self._threads = [*(one for one in self._threads if one.is_alive()), thread]
        thread.start()

    def close(self) -> None:
        """Give what is being written three seconds."""
        ends_at = time.monotonic() + _LAST_SECONDS
        for thread in self._threads:
            thread.join(max(0.0, ends_at - time.monotonic()))

    def _write(self, pid: int, end: ProcessEnd) -> None:
        try:
            with closing(Database(self._settings.database, pool_size=1)) as database:
                database.transact(lambda connection: report_end(connection, self.token, pid, end))
        except Unavailable as error:
            _log.warning("death.not_reported", pid=pid, end=end, detail=error.detail)


def count_oom_kills() -> int:
    """Processes that the kernel killed for memory so far; 0 where nobody counts."""
    for counter in _COUNTERS:
        with suppress(OSError, ValueError):
            for line in counter.read_text().splitlines():
                name, _, count = line.partition(" ")
                if name == "oom_kill":
                    return int(count)
    return 0
