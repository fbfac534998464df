"""`darkroom worker`: one process per device, pinned before Python starts, replaced when it dies."""

import os
import sys
from collections.abc import Sequence
from contextlib import closing

from common.settings import Settings, child_environment
from common.supervisor import Child, Supervisor
from worker.deaths import DeathReporter
from worker.pinning import list_device_specs, pin_environment


def run(settings: Settings, devices: Sequence[str]) -> int:
    """Supervise a worker per device until SIGTERM. Returns the exit status; 0 after a clean drain."""
    is_only = len(devices) == 1
    deaths = DeathReporter(settings)
    settings = settings.model_copy(update={"launcher": deaths.token})
    children = [worker_child(settings, device, index, is_vital=is_only) for index, device in enumerate(devices)]
    with closing(deaths):
        return Supervisor(children, grace_seconds=settings.drain_seconds, on_end=deaths).run(deaths.look)


def all_devices() -> list[str]:
    """The devices of this machine, one worker each."""
    return list_device_specs(os.environ)


def worker_child(settings: Settings, device: str, index: int, *, is_vital: bool) -> Child:
    """How to start the worker of one device. One of several is not vital: a broken GPU must not stop the others."""
    argv = [sys.executable, "-m", "worker.main", "--device", device]
    environment = child_environment(settings, **pin_environment(device, os.environ))
    return Child(f"worker-{index}", argv, environment, is_vital=is_vital)
