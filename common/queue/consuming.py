"""Running Celery's solo worker for doorbells, and running it again when the broker made it give up."""

import time
from collections.abc import Callable
from itertools import chain, repeat

import structlog
from celery import Celery

_PAUSES_SECONDS = (0.5, 1.0, 2.0, 5.0)

_log = structlog.get_logger()


def consume(app: Celery, name: str, *, is_over: Callable[[], bool]) -> None:
    """Consume doorbells on this (the main) thread until a signal has been handled and `is_over`.

    A broker that answers nonsense ends Celery's worker, not ours: bells are missing for a moment, and jobs are found by
    looking.
    """
    for pause in chain(_PAUSES_SECONDS, repeat(_PAUSES_SECONDS[-1])):
        worker = app.Worker(
            hostname=name, pool="solo", concurrency=1, without_gossip=True, without_mingle=True, without_heartbeat=True
        )
        worker.start()
        if is_over():
            return
        _log.error("doorbell.consumer_ended", again_in_seconds=pause)
        time.sleep(pause)
