"""What only a launcher knows of the end of a worker process: that it is over, and whether it crashed or was killed."""

import signal
import socket
import threading
from contextlib import closing, suppress
from pathlib import Path
from typing import Final

import structlog

from common.db.engine import Database
from common.db.workers import report_end
from common.domain.errors import Unavailable
from common.domain.retry import ProcessEnd
from common.settings import Settings

_FROM_OUTSIDE: Final = frozenset({-signal.SIGKILL, -signal.SIGTERM, -signal.SIGINT, -signal.SIGHUP, -signal.SIGQUIT})
_MEMORY_EVENTS: Final = Path("/sys/fs/cgroup/memory.events")

_log = structlog.get_logger()


def judge(exit_code: int, *, ran_out_of_memory: bool) -> ProcessEnd | None:
    """How a process ended that left this exit code (negative: the signal); None for the end of a drain.

    A SIGKILL comes from outside, unless the system was out of memory: that is the doing of what ran in the process.
    """
    if exit_code == 0:
        return None
    if exit_code == -signal.SIGKILL and ran_out_of_memory:
        return ProcessEnd.CRASHED
    return ProcessEnd.KILLED if exit_code in _FROM_OUTSIDE else ProcessEnd.CRASHED


class DeathReporter:
    """Writes down how worker processes of this host end, for the sweeper. What cannot be written is not known."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._oom_kills = count_oom_kills()

    def __call__(self, pid: int, exit_code: int) -> None:
        """A worker process has ended. Returns at once; a thread of its own writes."""
        before, self._oom_kills = self._oom_kills, count_oom_kills()
        end = judge(exit_code, ran_out_of_memory=self._oom_kills > before)
        if end is not None:
            threading.Thread(target=self._write, args=(pid, end), name="death", daemon=True).start()

    def _write(self, pid: int, end: ProcessEnd) -> None:
        try:
            with closing(Database(self._settings.database, pool_size=1)) as database:
                database.transact(lambda connection: report_end(connection, socket.gethostname(), pid, end))
        except Unavailable as error:
            _log.warning("death.not_reported", pid=pid, end=end, detail=error.detail)


def count_oom_kills() -> int:
    """Processes of this container that the kernel killed for memory so far; 0 where nobody counts."""
    with suppress(OSError, ValueError):
        for line in _MEMORY_EVENTS.read_text().splitlines():
            name, _, count = line.partition(" ")
            if name == "oom_kill":
                return int(count)
    return 0
