"""Celery, wrapped once. A message says "there is work in pool P" and nothing else; losing one costs a second.

Acked early, prefetch 1, no result backend, JSON only, no eta or countdown, remote control and events off.
"""

import warnings
from pathlib import Path
from typing import Any

from celery import Celery
from kombu.entity import Queue

from common.queue.files import mend_filesystem_transport
from common.settings import Settings

DOORBELL_TASK = "darkroom.doorbell"
COURIER_QUEUE = "darkroom.courier"

_POLLING_SECONDS = 0.05
# Longest wait for the broker's answer, after which the connection is made anew.
_CONSUMER_SECONDS = 10
_PRODUCER_SECONDS = 3


def pool_queue(pool: str) -> str:
    """The Celery queue on which a pool's doorbells arrive."""
    return f"darkroom.pool.{pool}"


def create_celery(settings: Settings, *queues: str) -> Celery:
    """A Celery application on the broker of the settings. Knows no task yet.

    A consumer names its `queues` and knows no others; a producer names none and may ring any.
    """
    mend_filesystem_transport()
    app = Celery("darkroom", broker=settings.broker, set_as_current=False)
    app.conf.update(
        task_acks_late=False,
        task_ignore_result=True,
        task_store_errors_even_if_ignored=False,
        result_backend=None,
        accept_content=["json"],
        task_serializer="json",
        result_serializer="json",
        task_create_missing_queues=not queues,
        task_queues=[Queue(name, routing_key=name, durable=True) for name in queues],
        task_default_queue=queues[0] if queues else COURIER_QUEUE,
        worker_prefetch_multiplier=1,
        worker_enable_remote_control=False,
        worker_send_task_events=False,
        worker_hijack_root_logger=False,
        worker_redirect_stdouts=False,
        worker_cancel_long_running_tasks_on_connection_loss=False,
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,
        broker_channel_error_retry=True,
        broker_pool_acquire_timeout=2,
        broker_transport_options=_transport_options(settings, is_consumer=bool(queues)),
    )
    return app


def _transport_options(settings: Settings, *, is_consumer: bool) -> dict[str, Any]:
    if settings.broker.startswith("filesystem"):
        return _folders(settings.data_dir.resolve() / "broker")
    if settings.broker.startswith("redis"):
        return {
            # A half-open connection is given up after 21 seconds, at the latest 10 seconds after that bells are heard
            # again; with kombu's 25 seconds and a socket timeout of 30 it took longer than a minute.
            "health_check_interval": 10,
            "socket_timeout": _CONSUMER_SECONDS if is_consumer else _PRODUCER_SECONDS,
            "socket_connect_timeout": 5,
            # A bell that finds no broker fails at once; else kombu tries for six seconds, and the next bells wait.
            "max_retries": 0,
            "global_keyprefix": "darkroom:",
        }
    return {}


def _folders(root: Path) -> dict[str, Any]:
    for name in ("queue", "processed", "control"):
        (root / name).mkdir(parents=True, exist_ok=True)
    return {
        "data_folder_in": str(root / "queue"),
        "data_folder_out": str(root / "queue"),
        "processed_folder": str(root / "processed"),
        "control_folder": str(root / "control"),
        "store_processed": False,
        "polling_interval": _POLLING_SECONDS,
    }


def quiet_celery() -> None:
    """Silence the warnings that are no news to an operator of Darkroom."""
    warnings.filterwarnings("ignore", message="You're running the worker with superuser privileges")
