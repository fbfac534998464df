"""A worker process: `python -m worker.main --device cpu`. Started by `worker.launcher`, which pins the device."""

import argparse
import os
import signal
import sys
import threading

import structlog
from celery.signals import worker_shutting_down

from common import failpoints
from common.catalogue_file import load_catalogue
from common.logging import configure_logging
from common.queue.celery_app import create_celery, pool_queue, quiet_celery
from common.queue.consuming import consume, keep_signals
from common.queue.hearing import hear
from common.settings import Settings, load_settings
from worker.checkpoints.places import Shelf
from worker.device import Device, pick_device, use_threads
from worker.engine.building import EngineBuilder
from worker.quiet import quiet_libraries
from worker.runtime import Runtime

_DEATH = 70  # EX_SOFTWARE: a thread died; the launcher starts the next process

_log = structlog.get_logger()


def main() -> None:
    """Run until SIGTERM; exit 0 after a drain."""
    parser = argparse.ArgumentParser(prog="worker.main")
    parser.add_argument("--device")
    parser.add_argument("--pool")
    arguments = parser.parse_args()
    settings = load_settings(device=arguments.device, pool=arguments.pool)
    configure_logging(settings, "worker")
    failpoints.arm(settings.failpoints, settings.failpoint_seed)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: sys.exit(0))
    runtime = _build(settings)
    runtime.await_database()
    keep_signals()
    runtime.start()
    status = _consume_doorbells(settings, runtime) if settings.doorbells else _wait(runtime)
    if runtime.has_stragglers:
        os._exit(status)
    sys.exit(status)


def _build(settings: Settings) -> Runtime:
    device = _open_device(settings)
    catalogue = load_catalogue(settings)
    builder = EngineBuilder(
        device=device,
        catalogue=catalogue,
        shelf=Shelf(settings.models_dir, settings.hf_token.get_secret_value() if settings.hf_token else None),
        settings=settings,
    )
    return Runtime(
        settings,
        device=device.spec if device else "stub",
        catalogue=catalogue,
        build_engine=builder,
        on_death=lambda: os._exit(_DEATH),
    )


def _open_device(settings: Settings) -> Device | None:
    if settings.device == "stub":
        return None
    quiet_libraries()
    use_threads(settings.torch_threads)
    return pick_device(settings.device, is_pinned=settings.pinned_device == settings.device)


def _consume_doorbells(settings: Settings, runtime: Runtime) -> int:
    """Celery's solo worker on the main thread: its one task sets an event. Returns the exit status.

    A SIGTERM drains within Celery's warm shutdown; a second one finds the drain under way and returns at once.
    """
    quiet_celery()
    app = create_celery(settings, pool_queue(settings.pool))
    hear(app, runtime.ring)

    def drain(**_: object) -> None:
        runtime.drain()

    worker_shutting_down.connect(drain, weak=False)
    consume(app, f"{runtime.card.id}@{runtime.card.hostname}", is_over=runtime.drained.is_set)
    runtime.drain()
    return 0


def _wait(runtime: Runtime) -> int:
    """Without doorbells there is no Celery: wait for a signal, then drain."""
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    while not (stop.wait(0.5) or runtime.drained.is_set()):
        pass
    runtime.drain()
    return 0


if __name__ == "__main__":
    main()
