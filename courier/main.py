"""The courier: errands that need the network or much CPU, so that neither API nor device ever waits for them.

A Celery worker on the courier's queue; a doorbell wakes it, and it looks by itself once a second (± 20 %). Which
errands there are stands in `courier.errands`.
"""

import os
import random
import socket
import threading

import structlog
from celery.signals import worker_shutting_down

from common.db.engine import Database
from common.domain.errors import Unavailable
from common.logging import configure_logging
from common.queue.celery_app import COURIER_QUEUE, DOORBELL_TASK, create_celery, quiet_celery
from common.queue.consuming import consume
from common.settings import Settings
from courier.errands import ERRANDS

_log = structlog.get_logger()


class Courier:
    """Runs errands as long as there are any, then waits for a bell."""

    def __init__(self, settings: Settings, database: Database) -> None:
        self._settings = settings
        self._database = database
        self._bell = threading.Event()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="courier", daemon=True)

    def start(self) -> None:
        """Begin to run errands on a thread."""
        self._thread.start()

    def ring(self) -> None:
        """There may be an errand."""
        self._bell.set()

    def stop(self) -> None:
        """Finish the errand in hand, then stop. Returns at once when a stop is under way already."""
        if not self._stop.is_set():
            self._stop.set()
            self._thread.join(self._settings.drain_seconds)

    def is_stopped(self) -> bool:
        """Whether it was asked to stop."""
        return self._stop.is_set()

    def run_once(self) -> int:
        """Run what is due of every errand. Returns how many were run."""
        return sum(errand(self._database) for errand in ERRANDS)

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                done = self.run_once()
            except Unavailable as error:
                _log.warning("courier.unavailable", detail=error.detail)
                done = 0
            except Exception as error:  # the edge of one errand: the others must still be run
                _log.error("errand.failed", exc_info=error)
                done = 0
            if not done:
                self._bell.wait(self._settings.poll_seconds * random.uniform(0.8, 1.2))  # noqa: S311 - spreads the polls
                self._bell.clear()


def run(settings: Settings) -> int:
    """Run errands until SIGTERM. Returns the exit status; 0 after a clean stop."""
    configure_logging(settings, "courier")
    quiet_celery()
    database = Database(settings.database, pool_size=2)
    courier = Courier(settings, database)
    app = create_celery(settings, COURIER_QUEUE)
    app.task(name=DOORBELL_TASK)(courier.ring)

    def drain(**_: object) -> None:
        courier.stop()

    worker_shutting_down.connect(drain, weak=False)
    courier.start()
    _log.info("courier.started", errands=len(ERRANDS))
    consume(app, f"courier-{os.getpid()}@{socket.gethostname()}", is_over=courier.is_stopped)
    database.close()
    return 0
