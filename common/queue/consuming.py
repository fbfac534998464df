"""Running Celery's solo worker for doorbells, and running it again when the broker made it give up."""

import os
import signal
import threading
import time
from collections.abc import Callable
from itertools import chain, repeat

import structlog
from celery import Celery

_PAUSES_SECONDS = (0.5, 1.0, 2.0, 5.0)
_AGAIN_SECONDS = 0.1

_log = structlog.get_logger()


def keep_signals() -> None:
    """A signal that arrives while there is something to lose and nobody listens yet is sent again until Celery does."""

    def come_again(*_: object) -> None:
        threading.Timer(_AGAIN_SECONDS, os.kill, (os.getpid(), signal.SIGTERM)).start()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, come_again)


def consume(app: Celery, name: str, *, is_over: Callable[[], bool]) -> None:
    """Consume doorbells on this (the main) thread until a signal has been handled and `is_over`.

    A broker that answers nonsense ends Celery's worker, not ours: bells are missing for a moment, and jobs are found by
    looking. What waits in the queues then is thrown away.
    """
    for pause in chain(_PAUSES_SECONDS, repeat(_PAUSES_SECONDS[-1])):
        worker = app.Worker(
            hostname=name, pool="solo", concurrency=1, without_gossip=True, without_mingle=True, without_heartbeat=True
        )
        worker.start()
        if is_over():
            return
        _log.error("doorbell.consumer_ended", again_in_seconds=pause)
        _throw_away(app)
        time.sleep(pause)


def _throw_away(app: Celery) -> None:
    """Empty the queues: the message that ended the consumer went back into one of them, and would end the next."""
    try:
        with app.connection_for_write() as connection:
            for name in app.amqp.queues:
                connection.default_channel.queue_purge(name)
    except Exception as error:  # the edge of the broker: it may be what was wrong
        _log.warning("doorbell.not_emptied", error=type(error).__name__)
