"""Child processes kept alive together: started, replaced when they die, drained on a signal, none left behind.

For processes with one thread: a child is tied to the life of the thread that started it.
"""

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Final

import structlog

MOST_DEATHS: Final = 5
DEATHS_SECONDS: Final = 30.0
REST_SECONDS: Final = 60.0
KILL_MARGIN_SECONDS: Final = 10.0

_RESTART_SECONDS: Final = (0.0, 1.0, 2.0, 5.0)
_LOOK_SECONDS: Final = 0.05
_TAIL_LINES: Final = 15
_TAIL_BYTES: Final = 8192
_PR_SET_PDEATHSIG: Final = 1
_STOP_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
# A child that had no handler yet, or that hands the signal back to itself after its drain, ends this way in good order.
_CLEAN_EXITS: Final = frozenset({0, -signal.SIGTERM, -signal.SIGINT})

_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Child:
    """A process to keep alive. Its output goes to `log_file`, or where ours goes without one.

    When a vital one dies too often, everything stops; another is left alone for a minute and tried again.
    """

    name: str
    argv: Sequence[str]
    environment: Mapping[str, str]
    log_file: Path | None = None
    restarts_after_success: bool = True
    is_vital: bool = True


def restart_delay(deaths: Sequence[float], now: float) -> float | None:
    """Seconds until a child that died at these moments is started again; None when it died too often to go on."""
    recent = sum(now - moment <= DEATHS_SECONDS for moment in deaths)
    if recent >= MOST_DEATHS:
        return None
    return _RESTART_SECONDS[max(recent, 1) - 1]


class Supervisor:
    """Keeps its children alive until it is told to stop; the order of `children` is the order of the stop signals.

    A child that dies five times within 30 seconds stops all of them; `failure` then says which, and why. `on_end` is
    told the process id and the exit code of every child that ends.
    """

    def __init__(
        self, children: Sequence[Child], *, grace_seconds: float, on_end: Callable[[int, int], object] | None = None
    ) -> None:
        self._on_end = on_end
        self._roles = [_Role(child) for child in children]
        self._grace_seconds = grace_seconds
        self._signals = 0
        self._kill_at: float | None = None
        self._is_clean = True
        self.failure: str | None = None

    @property
    def pids(self) -> dict[str, int]:
        """The process ids of the children that live, by name."""
        return {role.child.name: role.process.pid for role in self._roles if role.process is not None}

    @property
    def is_draining(self) -> bool:
        """True from the first stop signal on."""
        return self._kill_at is not None

    def run(self, watch: Callable[[], object] = lambda: None) -> int:
        """Start every child and stay until all are gone; 0 after a clean drain, else 1. For the main thread only.

        The first SIGINT, SIGTERM or SIGHUP drains, a second changes nothing, a third kills. `watch` is called at every
        look (20 a second); whatever it raises ends everything and is raised here.
        """
        with self._counted_signals():
            try:
                self.start()
                while self.tick():
                    watch()
                    time.sleep(_LOOK_SECONDS)
            finally:
                self.kill()
        return 0 if self._is_clean else 1

    def start(self) -> None:
        """Start every child."""
        for role in self._roles:
            role.start()
            _log.info("supervisor.started", child=role.child.name, pid=self.pids[role.child.name])

    def tick(self) -> bool:
        """One look: bury the dead, start what is due, stop when told. False when nothing runs or will run."""
        if self._signals:
            self.stop()
        for role in self._roles:
            self._look_after(role)
        if self._kill_at is not None and (time.monotonic() > self._kill_at or self._signals > 2):
            self.kill()
        return any(role.process is not None or role.due_at is not None for role in self._roles)

    def stop(self) -> None:
        """Send SIGTERM to every child; what still runs ten seconds after the grace is killed. Once is enough."""
        if self._kill_at is not None:
            return
        self._kill_at = time.monotonic() + self._grace_seconds + KILL_MARGIN_SECONDS
        _log.info("supervisor.draining", grace_seconds=self._grace_seconds)
        for role in self._roles:
            role.due_at = None
            if role.process is not None:
                role.process.terminate()

    def kill(self) -> None:
        """Kill every child that is left, with all that it started."""
        for role in self._roles:
            role.due_at = None
            if role.process is not None:
                self._is_clean = False
                _log.warning("supervisor.killed", child=role.child.name)
                pid = role.process.pid
                role.kill()
                self._tell(pid, -signal.SIGKILL)

    def _look_after(self, role: "_Role") -> None:
        pid = role.process.pid if role.process is not None else 0
        exit_code = role.bury()
        if exit_code is not None:
            self._tell(pid, exit_code)
            self._decide(role, exit_code)
        if role.due_at is not None and time.monotonic() >= role.due_at:
            role.start()
            _log.info("supervisor.restarted", child=role.child.name, pid=self.pids[role.child.name])

    def _tell(self, pid: int, exit_code: int) -> None:
        if self._on_end is None:
            return
        try:
            self._on_end(pid, exit_code)
        except Exception as error:  # the other children must not die of it
            _log.error("supervisor.not_told", exc_info=error)

    def _decide(self, role: "_Role", exit_code: int) -> None:
        name = role.child.name
        if self._kill_at is not None:
            self._is_clean &= exit_code in _CLEAN_EXITS
            _log.info("supervisor.ended", child=name, exit_code=exit_code)
            return
        if exit_code == 0 and not role.child.restarts_after_success:
            return
        now = time.monotonic()
        role.deaths = [*role.deaths[-MOST_DEATHS:], now]
        delay = restart_delay(role.deaths, now)
        _log.warning("supervisor.died", child=name, exit_code=exit_code, restart_in_seconds=delay)
        if delay is not None:
            role.due_at = now + delay
        elif role.child.is_vital:
            self._give_up(role, exit_code)
        else:
            _log.error("supervisor.rests_a_child", child=name, exit_code=exit_code, seconds=REST_SECONDS)
            role.due_at = now + REST_SECONDS

    def _give_up(self, role: "_Role", exit_code: int) -> None:
        what = f"{role.child.name} ended {MOST_DEATHS} times within {DEATHS_SECONDS:g} seconds, last with {exit_code}"
        self.failure = f"{what}\n{role.log_tail()}".strip()
        self._is_clean = False
        _log.error("supervisor.gave_up", child=role.child.name, exit_code=exit_code)
        self.stop()

    @contextmanager
    def _counted_signals(self) -> Iterator[None]:
        before = {number: signal.signal(number, self._count_signal) for number in _STOP_SIGNALS}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _count_signal(self, number: int, frame: FrameType | None) -> None:
        self._signals += 1


@dataclass(slots=True)
class _Role:
    """A child's place: the process that fills it now, when the next one is due, and when its predecessors died."""

    child: Child
    process: subprocess.Popen[bytes] | None = None
    due_at: float | None = None
    deaths: list[float] = field(default_factory=list)

    def start(self) -> None:
        self.due_at = None
        with _output(self.child.log_file) as output:
            self.process = subprocess.Popen(
                list(self.child.argv),
                env=dict(self.child.environment),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
                preexec_fn=tied_to_this_process(),
            )

    def bury(self) -> int | None:
        """The exit code of a process that has just ended, and the end of what it left in its process group."""
        if self.process is None or (exit_code := self.process.poll()) is None:
            return None
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process = None
        return exit_code

    def kill(self) -> None:
        if self.process is None:
            return
        for pid in (self.process.pid, *list_descendants(self.process.pid)):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.wait()
        self.bury()

    def log_tail(self) -> str:
        if self.child.log_file is None:
            return ""
        with self.child.log_file.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - _TAIL_BYTES))
            lines = file.read().decode(errors="replace").splitlines()[-_TAIL_LINES:]
        return "\n".join([f"the end of {self.child.log_file}:", *lines])


@contextmanager
def _output(log_file: Path | None) -> Iterator[int | None]:
    if log_file is None:
        yield None
        return
    with log_file.open("ab") as file:
        yield file.fileno()


def tied_to_this_process() -> Callable[[], None] | None:
    """The `preexec_fn` of a child that gets SIGTERM when its parent dies, however that comes about (Linux only)."""
    if sys.platform != "linux":
        return None
    parent, prctl = os.getpid(), ctypes.CDLL(None).prctl

    def tie() -> None:
        prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:  # it died before we were tied
            os._exit(1)

    return tie


def list_descendants(pid: int) -> list[int]:
    """Every process below this one, as /proc shows it; none where there is no /proc."""
    children: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            # The command's name, in parentheses, may contain anything: what counts stands after the last of them.
            _, parent, *_ = stat.read_text(errors="replace").rpartition(")")[2].split()
            children.setdefault(int(parent), []).append(int(stat.parent.name))
    below = children.get(pid, [])
    for one in below:
        below.extend(children.get(one, []))
    return below
