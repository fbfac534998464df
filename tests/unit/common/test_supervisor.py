"""The supervisor, with real processes: tiny Python programs that write down what happens to them."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path

import pytest

from common.supervisor import Child, Supervisor, restart_delay
from tests.waiting import wait_until

STAYS = "import time; print('up', flush=True); time.sleep(600)"
DRAINS = """
import signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: (print("drained", flush=True), sys.exit(0)))
print("up", flush=True)
time.sleep(600)
"""
IGNORES = """
import signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print("up", flush=True)
time.sleep(600)
"""
# Drains when it is told by a file, as a worker does when its jobs are done.
WAITS_FOR_FILE = """
import pathlib, signal, sys, time
asked = []
signal.signal(signal.SIGTERM, lambda *_: (asked.append(1), print("asked", flush=True)))
print("up", flush=True)
while not (asked and pathlib.Path(sys.argv[1]).exists()):
    time.sleep(0.01)
"""
HAS_GRANDCHILD = """
import subprocess, sys, time
below = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
print("up", below.pid, flush=True)
time.sleep(600)
"""
# A supervisor in a process of its own, for what only signals show: argv is the log folder and the children's programs.
SUPERVISES = """
import os, pathlib, sys
from common.supervisor import Child, Supervisor
folder = pathlib.Path(sys.argv[1])
children = [
    Child(str(i), [sys.executable, "-c", program, str(folder / "finish")], dict(os.environ), folder / f"{i}.log")
    for i, program in enumerate(sys.argv[2:])
]
supervisor = Supervisor(children, grace_seconds=30)
sys.exit(supervisor.run())
"""


@pytest.fixture
def supervisors() -> Iterator[list[Supervisor]]:
    started: list[Supervisor] = []
    yield started
    for supervisor in started:
        supervisor.kill()


def child(program: str, log: Path, name: str = "one", **options: bool) -> Child:
    return Child(name, [sys.executable, "-c", program], dict(os.environ), log, **options)


def start(supervisors: list[Supervisor], *children: Child, grace_seconds: float = 30) -> Supervisor:
    supervisor = Supervisor(children, grace_seconds=grace_seconds)
    supervisors.append(supervisor)
    supervisor.start()
    for one in children:
        wait_until(partial(_has_written, one), what=f"a sign of life of {one.name}")
    return supervisor


def _has_written(one: Child) -> bool:
    return one.log_file is not None and bool(one.log_file.read_text())


def finish(supervisor: Supervisor) -> None:
    wait_until(lambda: not supervisor.tick(), what="the end of every child")


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_a_child_is_restarted_at_once_and_then_ever_later() -> None:
    assert restart_delay([100.0], 100.0) == 0
    assert restart_delay([100.0, 100.1], 100.1) == 1
    assert restart_delay([100.0, 100.1, 101.2], 101.2) == 2
    assert restart_delay([100.0, 100.1, 101.2, 103.3], 103.3) == 5


def test_five_deaths_within_thirty_seconds_are_too_many_and_older_ones_are_forgotten() -> None:
    assert restart_delay([100.0, 110.0, 115.0, 120.0, 130.0], 130.0) is None
    assert restart_delay([100.0, 110.0, 115.0, 120.0, 130.1], 130.1) == 5
    assert restart_delay([0.0, 40.0, 80.0], 80.0) == 0


def test_a_killed_child_is_replaced_at_once(supervisors: list[Supervisor], tmp_path: Path) -> None:
    supervisor = start(supervisors, child(STAYS, tmp_path / "log"))
    first = supervisor.pids["one"]
    os.kill(first, signal.SIGKILL)
    wait_until(lambda: supervisor.tick() and supervisor.pids.get("one", first) != first, what="a second process")
    assert not is_alive(first)


def test_a_child_that_ends_by_itself_is_replaced_unless_told_otherwise(
    supervisors: list[Supervisor], tmp_path: Path
) -> None:
    ends = "print('up', flush=True)"
    supervisor = start(supervisors, child(ends, tmp_path / "again"))
    wait_until(
        lambda: supervisor.tick() and (tmp_path / "again").read_text().count("up") > 1, what="a second sign of life"
    )
    once = start(supervisors, child(ends, tmp_path / "once", restarts_after_success=False))
    finish(once)
    assert (tmp_path / "once").read_text() == "up\n"


def test_stop_drains_every_child(supervisors: list[Supervisor], tmp_path: Path) -> None:
    supervisor = start(supervisors, child(DRAINS, tmp_path / "a", "a"), child(DRAINS, tmp_path / "b", "b"))
    supervisor.stop()
    finish(supervisor)
    assert (tmp_path / "a").read_text() == (tmp_path / "b").read_text() == "up\ndrained\n"
    assert supervisor.pids == {}


def test_a_child_that_ignores_the_signal_is_killed_after_the_grace(
    supervisors: list[Supervisor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("common.supervisor.KILL_MARGIN_SECONDS", 0.1)
    supervisor = start(supervisors, child(IGNORES, tmp_path / "log"), grace_seconds=0)
    pid = supervisor.pids["one"]
    supervisor.stop()
    finish(supervisor)
    assert not is_alive(pid)


def test_killing_reaches_what_a_child_started_in_a_session_of_its_own(
    supervisors: list[Supervisor], tmp_path: Path
) -> None:
    supervisor = start(supervisors, child(HAS_GRANDCHILD, tmp_path / "log"))
    grandchild = int((tmp_path / "log").read_text().split()[1])
    supervisor.kill()
    wait_until(lambda: not is_alive(grandchild), what="the end of the grandchild")


def test_a_child_that_keeps_dying_stops_all_with_the_end_of_its_log(
    supervisors: list[Supervisor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("common.supervisor._RESTART_SECONDS", (0.0,) * 4)
    dies = "print('no disk', flush=True); raise SystemExit(3)"
    supervisor = start(supervisors, child(dies, tmp_path / "bad", "bad"), child(DRAINS, tmp_path / "good", "good"))
    finish(supervisor)
    assert supervisor.failure is not None
    assert supervisor.failure.startswith("bad ended 5 times within 30 seconds, last with 3")
    assert supervisor.failure.endswith("no disk")
    assert (tmp_path / "good").read_text().endswith("drained\n")


def test_a_child_that_is_not_vital_may_keep_dying_and_stops_nobody(
    supervisors: list[Supervisor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("common.supervisor.restart_delay", lambda deaths, now: None)
    broken = child("raise SystemExit('broken')", tmp_path / "broken.log", "broken", is_vital=False)
    healthy = child(DRAINS, tmp_path / "healthy.log", "healthy")
    supervisor = start(supervisors, broken, healthy)
    wait_until(lambda: supervisor.tick() and "broken" not in supervisor.pids, what="the death of the broken one")
    assert is_alive(supervisor.pids["healthy"])
    supervisor.stop()
    finish(supervisor)
    assert "drained" in (tmp_path / "healthy.log").read_text()
    assert supervisor.failure is None


@pytest.fixture
def supervising(tmp_path: Path) -> Iterator[list[subprocess.Popen[bytes]]]:
    started: list[subprocess.Popen[bytes]] = []
    yield started
    for process in started:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def supervise(started: list[subprocess.Popen[bytes]], folder: Path, *programs: str) -> subprocess.Popen[bytes]:
    process = subprocess.Popen(
        [sys.executable, "-c", SUPERVISES, str(folder), *programs], start_new_session=True, stdout=subprocess.DEVNULL
    )
    started.append(process)
    for index in range(len(programs)):
        wait_until(partial(_says, folder, index, "up"), what=f"a sign of life of child {index}")
    return process


def _says(folder: Path, index: int, what: str) -> bool:
    log = folder / f"{index}.log"
    return log.exists() and what in log.read_text()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_drains_and_ends_in_zero(
    supervising: list[subprocess.Popen[bytes]], tmp_path: Path, number: signal.Signals
) -> None:
    process = supervise(supervising, tmp_path, DRAINS, STAYS)
    process.send_signal(number)
    assert process.wait(timeout=20) == 0
    assert _says(tmp_path, 0, "drained")


def test_a_second_signal_does_not_break_the_drain(supervising: list[subprocess.Popen[bytes]], tmp_path: Path) -> None:
    process = supervise(supervising, tmp_path, WAITS_FOR_FILE)
    process.send_signal(signal.SIGTERM)
    wait_until(lambda: _says(tmp_path, 0, "asked"), what="the child being asked")
    process.send_signal(signal.SIGINT)
    (tmp_path / "finish").touch()
    assert process.wait(timeout=20) == 0
    assert (tmp_path / "0.log").read_text().count("asked") == 1


def test_a_third_signal_kills(supervising: list[subprocess.Popen[bytes]], tmp_path: Path) -> None:
    process = supervise(supervising, tmp_path, IGNORES)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        process.send_signal(number)
    assert process.wait(timeout=20) == 1


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a child that its parent died")
def test_no_child_outlives_a_killed_supervisor(supervising: list[subprocess.Popen[bytes]], tmp_path: Path) -> None:
    process = supervise(supervising, tmp_path, DRAINS)
    process.kill()
    process.wait()
    wait_until(lambda: _says(tmp_path, 0, "drained"), what="the drain of the orphan")
