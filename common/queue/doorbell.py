"""Ringing the doorbell: after the commit, off the request's thread, bounded in time, errors ignored.

A bell that is lost is made good by the claimers' own look once a second; so a full backlog of bells is dropped.
"""

import queue
import threading
from collections.abc import Callable
from typing import Protocol

import structlog
from celery import Celery

from common.queue.celery_app import COURIER_QUEUE, DOORBELL_TASK, create_celery, pool_queue
from common.settings import Settings

_BACKLOG = 256
_MOST_RINGS = 16

_log = structlog.get_logger()


class Doorbell(Protocol):
    """Says that there is work. Never blocks, never raises. `is_ok` is False after a bell that failed."""

    is_ok: bool

    def ring(self, pool: str, jobs: int = 1) -> None:
        """There are `jobs` new jobs in this pool."""

    def ring_courier(self) -> None:
        """There is something for a courier."""

    def close(self) -> None:
        """Stop ringing; bells not yet sent may be lost."""


class NoDoorbell:
    """The doorbell of a deployment without a broker: workers poll."""

    is_ok = True

    def ring(self, pool: str, jobs: int = 1) -> None:
        """Do nothing."""

    def ring_courier(self) -> None:
        """Do nothing."""

    def close(self) -> None:
        """Do nothing."""


class CeleryDoorbell:
    """Publishes doorbell tasks from one thread of its own."""

    def __init__(self, app: Celery, live_workers: Callable[[str], int]) -> None:
        self._app = app
        self._live_workers = live_workers
        self.is_ok = True
        self._bells: queue.Queue[tuple[str, int] | None] = queue.Queue(_BACKLOG)
        self._thread = threading.Thread(target=self._run, name="doorbell", daemon=True)
        self._thread.start()

    def ring(self, pool: str, jobs: int = 1) -> None:
        """Rings min(jobs, live workers of the pool) times, soon."""
        self._put((pool, jobs))

    def ring_courier(self) -> None:
        """Rings one courier, soon."""
        self._put(("", 1))

    def close(self) -> None:
        """Sends what is waiting, for at most two seconds."""
        self._put(None)
        self._thread.join(timeout=2)

    def _put(self, bell: tuple[str, int] | None) -> None:
        try:
            self._bells.put_nowait(bell)
        except queue.Full:
            _log.debug("doorbell.dropped")

    def _run(self) -> None:
        while (bell := self._bells.get()) is not None:
            try:
                self._publish(*bell)
                self.is_ok = True
            except Exception as error:  # the edge of the broker: any trouble means that workers poll
                self.is_ok = False
                _log.warning("doorbell.failed", error=type(error).__name__)

    def _publish(self, pool: str, jobs: int) -> None:
        name = pool_queue(pool) if pool else COURIER_QUEUE
        rings = 1 if jobs == 1 else min(jobs, self._live_workers(pool), _MOST_RINGS)
        for _ in range(rings):
            self._app.send_task(DOORBELL_TASK, queue=name, retry=False, ignore_result=True)


def open_doorbell(settings: Settings, live_workers: Callable[[str], int]) -> Doorbell:
    """The doorbell of these settings; `live_workers` counts those of a pool."""
    if not settings.doorbells:
        return NoDoorbell()
    return CeleryDoorbell(create_celery(settings), live_workers)
