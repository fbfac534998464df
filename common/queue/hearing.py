"""Hearing a doorbell: nothing of the message is read, so nothing in it can do harm."""

import logging
from collections.abc import Callable
from typing import Any

from celery import Celery

from common.queue.celery_app import DOORBELL_TASK

_log = logging.getLogger(__name__)


def hear(app: Celery, ring: Callable[[], None]) -> None:
    """Let every doorbell that reaches this consumer call `ring`, whatever else its message says.

    Celery's own way would unpack arguments, publish what a forged message names as callbacks, and hold one with an eta
    in memory; a body of an odd shape would end the consumer, go back to the queue, and end the next one.
    """
    app.task(name=DOORBELL_TASK, Strategy=f"{__name__}:strategy")(ring)


def strategy(task: Any, app: Celery, consumer: Any, **_: Any) -> Callable[..., None]:
    """Celery's hook: what becomes of each message of this task."""

    def receive(message: Any, payload: Any, ack: Callable[..., None], *_: Any) -> None:
        ack(_log, consumer.connection_errors)
        task.run()

    return receive
