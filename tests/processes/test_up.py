"""`darkroom up` and `darkroom demo`, as a user runs them: real processes, real signals, the stub model."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pytest
from PIL import Image

from client.sdk import Darkroom, Job
from common.supervisor import list_descendants
from deploy.local.readiness import count_ready_workers
from tests.processes.harness import SCALED, STUB_MODELS
from tests.waiting import wait_until

pytestmark = [
    pytest.mark.processes,
    pytest.mark.skipif(sys.platform != "linux", reason="looks at processes through /proc"),
]


@dataclass
class Up:
    """A `darkroom up` in a folder; what it says goes into `said`."""

    process: "subprocess.Popen[bytes]"
    said: Path

    @property
    def url(self) -> str:
        line = next(line for line in self.said.read_text().splitlines() if "is ready at" in line)
        return line.split()[-1]

    @property
    def pids(self) -> list[int]:
        return [self.process.pid, *list_descendants(self.process.pid)]

    def server(self) -> Darkroom:
        return Darkroom(self.url)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "models.toml").write_text(STUB_MODELS)
    return tmp_path


@pytest.fixture
def started() -> Iterator[list[Up]]:
    stacks: list[Up] = []
    yield stacks
    for up in stacks:
        for pid in up.pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        up.process.wait()


def environment(folder: Path, **extra: str) -> dict[str, str]:
    base = {name: value for name, value in os.environ.items() if not name.startswith("DARKROOM_")}
    stub = {"DARKROOM_DEVICE": "stub", "DARKROOM_MODELS_FILE": str(folder / "models.toml"), "TERM": "dumb"}
    return base | SCALED | stub | extra


def start(started: list[Up], folder: Path, **extra: str) -> Up:
    said = folder / f"up-{len(started)}.txt"
    with said.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "client.cli", "up", "--port", "0", "--data", str(folder / "data")],
            cwd=folder,
            env=environment(folder, **extra),
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    up = Up(process, said)
    started.append(up)
    wait_until(lambda: process.poll() is not None or "is ready at" in said.read_text(), seconds=60, what="readiness")
    assert process.poll() is None, said.read_text()
    return up


def submit(up: Up, steps: int) -> Job:
    with up.server() as server:
        return server.submit(prompt="anything", model="stub", num_inference_steps=steps)


def until_running(up: Up, job: Job) -> None:
    with up.server() as server:
        wait_until(lambda: server.job(job.id).status == "running", what="the job's start")


def interrupt(up: Up) -> None:
    """Ctrl-C; fails unless it ends well and leaves no process."""
    pids = up.pids
    up.process.send_signal(signal.SIGINT)
    assert up.process.wait(timeout=60) == 0, up.said.read_text()
    assert [pid for pid in pids if is_alive(pid)] == []


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_a_job_goes_the_whole_road_and_ctrl_c_leaves_no_process(started: list[Up], folder: Path) -> None:
    up = start(started, folder)
    assert len(up.pids) >= 6  # itself, api, launcher and its worker, courier, sweeper; and the decoders of the api
    with up.server() as server:
        job = server.submit(prompt="anything", model="stub", num_inference_steps=3).wait(timeout=30)
        assert job.status == "succeeded"
        assert job.download().startswith(b"\x89PNG")
    interrupt(up)
    assert "stopped" in up.said.read_text()


def test_starting_again_continues_with_what_was_queued(started: list[Up], folder: Path) -> None:
    slow = {"DARKROOM_STUB_STEP_SECONDS": "0.2", "DARKROOM_DRAIN_SECONDS": "0.5"}
    first = start(started, folder, **slow)
    jobs = [submit(first, steps=100), submit(first, steps=3)]
    until_running(first, jobs[0])
    interrupt(first)
    second = start(started, folder)
    with second.server() as server:
        finished = [server.wait(job.id, timeout=60) for job in jobs]
    assert [job.status for job in finished] == ["succeeded", "succeeded"]
    interrupt(second)


def test_a_second_up_on_the_same_folder_is_refused(started: list[Up], folder: Path) -> None:
    up = start(started, folder)
    second = subprocess.run(
        [sys.executable, "-m", "client.cli", "up", "--port", "0", "--data", str(folder / "data")],
        cwd=folder,
        env=environment(folder),
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert second.returncode == 1
    assert f"another `darkroom up` (process {up.process.pid}) uses" in second.stderr
    interrupt(up)


def test_no_child_outlives_a_killed_up(started: list[Up], folder: Path) -> None:
    up = start(started, folder)
    pids = up.pids
    up.process.kill()
    up.process.wait()
    wait_until(lambda: not any(map(is_alive, pids)), seconds=30, what="the end of every child")


def test_a_killed_worker_and_a_killed_api_are_replaced(started: list[Up], folder: Path) -> None:
    up = start(started, folder)
    for role in ("client.cli\0api", "worker.main"):
        victim = next(pid for pid in up.pids if role in Path(f"/proc/{pid}/cmdline").read_text())
        os.kill(victim, signal.SIGKILL)
        wait_until(lambda victim=victim: not is_alive(victim), what="its end")  # type: ignore[misc]
        wait_until(lambda: count_ready_workers(up.url), seconds=30, what="a replacement")
    with up.server() as server:
        assert server.submit(prompt="anything", model="stub").wait(timeout=30).status == "succeeded"
    interrupt(up)


def test_the_demo_writes_a_sheet_and_stops_everything(folder: Path) -> None:
    (folder / "models.toml").write_text(STUB_MODELS.replace("[stub]", "[demo]"))
    done = subprocess.run(
        [sys.executable, "-m", "client.cli", "demo", "--out", "out"],
        cwd=folder,
        env=environment(folder),
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    sheet = folder / "out" / "before-after.png"
    assert str(sheet) in done.stdout
    assert "drawing: succeeded" in done.stdout
    assert "darkroom models pull sd15" in done.stdout
    with Image.open(sheet) as image:
        assert image.width > 700
    owner = int((folder / "darkroom-data" / "demo" / "up.lock").read_text())
    assert not is_alive(owner)
