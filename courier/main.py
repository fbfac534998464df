"""The courier: errands that need the network or much CPU, so that neither API nor device ever waits for them.

A Celery worker on the courier's queue; a doorbell wakes it, and it looks by itself once a second (± 20 %). Which
errands there are stands in `courier.errands`.
"""

import os
import random
import socket
import threading
from contextlib import ExitStack

import structlog
from celery.signals import worker_shutting_down

from common import failpoints
from common.catalogue_file import load_catalogue
from common.clock import monotonic_seconds
from common.db.engine import Database
from common.db.workers import count_live
from common.domain.errors import Unavailable
from common.ids import new_id
from common.images.sandbox import ImageDecoder, ImageLimits
from common.logging import configure_logging
from common.outbound.fetching import Outbound
from common.outbound.policy import outbound_policy
from common.outbound.resolving import SystemResolver
from common.paces import Paces
from common.queue.celery_app import COURIER_QUEUE, create_celery, quiet_celery
from common.queue.consuming import consume, keep_signals
from common.queue.doorbell import open_doorbell
from common.queue.hearing import hear
from common.settings import Settings
from common.storage.open import open_store
from common.vault import open_vault
from courier.dispatch import Dispatcher
from courier.errands import ERRANDS
from courier.tools import Tools

# A name server that hangs keeps a lookup for several times as long as a call waits for it.
_LOOKUPS_PER_CALL = 8

_log = structlog.get_logger()


class Courier:
    """Runs errands as long as there are any, then waits for a bell; beside them webhooks are sent."""

    def __init__(self, tools: Tools) -> None:
        self._tools = tools
        self._settings = tools.settings
        self._bell = threading.Event()
        self._stop = threading.Event()
        self._dispatcher = Dispatcher(tools)
        self._threads = [
            threading.Thread(target=self._run, name=f"courier-{number}", daemon=True)
            for number in range(self._settings.courier_threads)
        ]

    def start(self) -> None:
        """Begin to run errands, on several threads: one slow host must not hold up the others. And to send webhooks."""
        self._dispatcher.start()
        for thread in self._threads:
            thread.start()

    def ring(self) -> None:
        """There may be an errand, or something to send."""
        self._bell.set()
        self._dispatcher.ring()

    def stop(self) -> None:
        """Finish the errands and calls in hand, then stop. Returns at once when a stop is under way already."""
        if self._stop.is_set():
            return
        _log.info("courier.draining")
        self._stop.set()
        self._tools.stop.set()
        self._bell.set()
        self._dispatcher.stop()
        ends_at = monotonic_seconds() + self._settings.drain_seconds
        for thread in self._threads:
            thread.join(max(0.0, ends_at - monotonic_seconds()))
        self._dispatcher.join(ends_at - monotonic_seconds())

    def is_stopped(self) -> bool:
        """Whether it was asked to stop."""
        return self._stop.is_set()

    def run_once(self) -> int:
        """Run what is due of every errand. Returns how many were run."""
        return sum(errand(self._tools) for errand in ERRANDS)

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
    failpoints.arm(settings.failpoints, settings.failpoint_seed)
    quiet_celery()
    with ExitStack() as stack:
        courier = Courier(_open_tools(settings, stack))
        _serve(settings, courier)
    return 0


def _serve(settings: Settings, courier: Courier) -> None:
    app = create_celery(settings, COURIER_QUEUE)
    hear(app, courier.ring)

    def drain(**_: object) -> None:
        courier.stop()

    worker_shutting_down.connect(drain, weak=False)
    keep_signals()
    courier.start()
    _log.info("courier.started", errands=len(ERRANDS))
    consume(app, f"courier-{os.getpid()}@{socket.gethostname()}", is_over=courier.is_stopped)


def _open_tools(settings: Settings, stack: ExitStack) -> Tools:
    # Calls need a connection for moments only: what the pool may overflow by is enough for all of them.
    lookups = _LOOKUPS_PER_CALL * settings.webhook_threads
    connections = settings.courier_threads + 2 + settings.webhook_threads // 2
    database = Database(settings.database, pool_size=connections)
    stack.callback(database.close)
    limits = ImageLimits(max_bytes=settings.max_image_bytes, max_pixels=settings.max_image_pixels)
    decoder = stack.enter_context(ImageDecoder(processes=settings.decoders, limits=limits))
    doorbell = open_doorbell(settings, lambda pool: _live(database, settings, pool))
    stack.callback(doorbell.close)
    catalogue = load_catalogue(settings)
    return Tools(
        settings=settings,
        database=database,
        store=open_store(settings.store, settings.store_public_url),
        decoder=decoder,
        outbound=Outbound(outbound_policy(settings), SystemResolver(max_lookups=lookups)),
        vault=open_vault(settings),
        doorbell=doorbell,
        catalogue=catalogue,
        paces=Paces(database, catalogue, fresh_seconds=settings.lease_seconds),
        worker_id=new_id("wrk"),
        # Batches take long: one thread at least is left for what single jobs await.
        batch_turns=threading.Semaphore(max(1, settings.courier_threads // 2)),
    )


def _live(database: Database, settings: Settings, pool: str) -> int:
    with database.read() as connection:
        return count_live(connection, pool, settings.lease_seconds)
