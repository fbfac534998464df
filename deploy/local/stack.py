"""`darkroom up`: API, workers, courier and sweeper as processes of this machine, kept alive until a signal."""

import os
import socket
import sys
import time
from collections.abc import Sequence
from contextlib import closing
from typing import Final

from common.db.engine import Database
from common.db.migrate import migrate
from common.logging import configure_logging
from common.settings import Settings, child_environment
from common.supervisor import KILL_MARGIN_SECONDS, Child, Supervisor
from deploy.local.folder import LOGS_NAME, FolderInUse, taken_folder
from deploy.local.readiness import count_ready_workers
from worker.pinning import list_device_specs

_ASK_SECONDS: Final = 0.5
_SLOW_SECONDS: Final = 120
_ANYWHERE: Final = frozenset({"0.0.0.0", "::"})  # noqa: S104 - recognised, not bound


class StackError(Exception):
    """The stack cannot start or go on; the text says why and what to do."""


def run_stack(settings: Settings, workers: int | None = None) -> int:
    """Start everything and stay until SIGINT or SIGTERM has drained it. Returns the exit status.

    `workers` is the number of worker processes; by default one per device. Raises `StackError`.
    """
    settings = settle_settings(settings)
    configure_logging(settings.model_copy(update={"log_level": "warning"}), "up")
    try:
        with taken_folder(settings.data_dir):
            return _run(settings, choose_devices(settings, workers))
    except FolderInUse as error:
        raise StackError(str(error)) from None


def settle_settings(settings: Settings) -> Settings:
    """The settings with everything explicit that children must agree on: paths, addresses, a port for port 0.

    Raises `StackError` for an address that is open without keys, and for a port that is taken.
    """
    if not settings.is_loopback and settings.auth == "none":
        raise StackError(
            f"{settings.host} can be reached from other machines: set DARKROOM_AUTH=keys and make a key with "
            "`darkroom keys create`, or listen on 127.0.0.1"
        )
    settings = settings.model_copy(update={"data_dir": settings.data_dir.resolve()})
    return settings.model_copy(
        update={
            "database_url": settings.database,
            "broker_url": settings.broker,
            "store_url": settings.store,
            "port": _free_port(settings.host, settings.port),
        }
    )


def choose_devices(settings: Settings, workers: int | None) -> list[str]:
    """The device of each worker: those of this machine, in turn, as often as workers are wished for."""
    devices = list_device_specs(os.environ) if settings.device == "auto" else [settings.device]
    return [devices[index % len(devices)] for index in range(workers or len(devices))]


def stack_children(settings: Settings, devices: Sequence[str]) -> list[Child]:
    """The processes, in the order in which they are stopped: first who accepts, then who works, then who mends."""
    environment = child_environment(settings)

    def child(name: str, *arguments: str) -> Child:
        argv = (sys.executable, "-m", "client.cli", *arguments)
        return Child(name, argv, environment, settings.data_dir / LOGS_NAME / f"{name}.log")

    workers = [child(f"worker-{index}", "worker", "--device", device) for index, device in enumerate(devices, 1)]
    return [child("api", "api"), *workers, child("courier", "courier"), child("sweeper", "sweeper")]


def _run(settings: Settings, devices: Sequence[str]) -> int:
    with closing(Database(settings.database, pool_size=1)) as database:
        migrate(database)
    # A worker's own supervisor kills after the same grace; ours waits for it.
    grace_seconds = settings.drain_seconds + KILL_MARGIN_SECONDS
    supervisor = Supervisor(stack_children(settings, devices), grace_seconds=grace_seconds)
    exit_code = supervisor.run(_Announcer(settings, devices, supervisor))
    if supervisor.failure is not None:
        raise StackError(supervisor.failure)
    _say("stopped" if exit_code == 0 else f"stopped, not in good order; see {settings.data_dir / LOGS_NAME}")
    return exit_code


class _Announcer:
    """Says once that everything is ready, once that it takes long, and once that it ends."""

    def __init__(self, settings: Settings, devices: Sequence[str], supervisor: Supervisor) -> None:
        self._settings = settings
        self._devices = devices
        self._supervisor = supervisor
        self._url = _address(settings)
        self._logs = settings.data_dir / LOGS_NAME
        self._slow_at = time.monotonic() + _SLOW_SECONDS
        self._ask_at = 0.0
        self._is_ready = False
        self._is_ending = False
        _say(f"starting Darkroom in {settings.data_dir} …")

    def __call__(self) -> None:
        if self._supervisor.is_draining:
            self._announce_end()
        elif not self._is_ready and time.monotonic() >= self._ask_at:
            self._is_ready = bool(count_ready_workers(self._url))
            self._ask_at = time.monotonic() + _ASK_SECONDS
            self._announce_ready() if self._is_ready else self._announce_slow()

    def _announce_ready(self) -> None:
        _say(
            f"Darkroom is ready at {self._url}\n"
            f"  documentation  {self._url}/docs\n"
            f"  workers        {len(self._devices)} ({', '.join(sorted(set(self._devices)))})\n"
            f"  data           {self._settings.data_dir}\n"
            f"  logs           {self._logs}{os.sep}*.log\n"
            "  stop           Ctrl-C; what is queued waits for the next start"
        )

    def _announce_slow(self) -> None:
        if time.monotonic() > self._slow_at:
            self._slow_at = float("inf")
            _say(f"no worker is ready after {_SLOW_SECONDS} seconds; still trying. The logs: {self._logs}")

    def _announce_end(self) -> None:
        if not self._is_ending:
            self._is_ending = True
            _say(
                f"stopping; running jobs get up to {self._settings.drain_seconds:g} seconds, "
                "a third Ctrl-C ends them at once"
            )


def _address(settings: Settings) -> str:
    host = "127.0.0.1" if settings.host in _ANYWHERE else settings.host
    return f"http://[{host}]:{settings.port}" if ":" in host else f"http://{host}:{settings.port}"


def _free_port(host: str, port: int) -> int:
    """The port itself, or for port 0 one that is free now. Raises `StackError` when it is taken."""
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
            return int(probe.getsockname()[1])
    except OSError as error:
        raise StackError(
            f"cannot listen on {host} port {port} ({error.strerror}); choose another with --port"
        ) from None


def _say(text: str) -> None:
    print(text, flush=True)  # noqa: T201 - this is the terminal of `darkroom up`
