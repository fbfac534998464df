"""Plain Celery and diffusers, what most people build: `python -m benchmarks.plain_celery --checkpoints DIR …`.

A solo worker on Redis that acknowledges late and prefetches one task. Its pipelines stay loaded; a task is one job: one
diffusers call, one PNG with Pillow's defaults, one file. It keeps no state anywhere and reports to nobody, so it does
less than a service has to.
"""

import argparse
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from celery import Celery
from kombu.entity import Queue

from benchmarks.plain import as_png
from benchmarks.programs import tiny_plain
from benchmarks.workloads import Edit

DRAW, WAIT = "plain.draw", "plain.wait"
_POLL_SECONDS = 0.002


def plain_app(broker: str, queue: str) -> Celery:
    """The application; producers and the worker name the same queue."""
    app = Celery("plain", broker=broker, set_as_current=False)
    app.conf.update(
        task_acks_late=True,
        task_ignore_result=True,
        worker_prefetch_multiplier=1,
        task_queues=[Queue(queue, routing_key=queue)],
        task_default_queue=queue,
        broker_connection_retry_on_startup=True,
        worker_enable_remote_control=False,
    )
    return app


def queue_backlog(app: Celery, gate: Path, edits: Sequence[Edit], results: Path) -> None:
    """Queue all jobs behind a task that waits until the file `gate` is there."""
    app.send_task(WAIT, (str(gate),))
    for number, edit in enumerate(edits):
        app.send_task(DRAW, (edit.as_dict(), str(results / f"{number}.png")))


def serve(app: Celery, checkpoints: Path) -> None:
    """Work until SIGTERM."""
    plain = tiny_plain(checkpoints)

    def draw(members: dict[str, Any], path: str) -> None:
        data = as_png(plain.draw([Edit(**members)])[0])
        Path(path).write_bytes(data)

    def wait(gate: str) -> None:
        while not Path(gate).exists():
            time.sleep(_POLL_SECONDS)

    app.task(name=DRAW)(draw)
    app.task(name=WAIT)(wait)
    app.worker_main(["worker", "--pool=solo", "--loglevel=warning", "--without-gossip", "--without-mingle"])


def main() -> None:
    """Serve."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--checkpoints", type=Path, required=True)
    parser.add_argument("--broker", required=True)
    parser.add_argument("--queue", required=True)
    arguments = parser.parse_args()
    serve(plain_app(arguments.broker, arguments.queue), arguments.checkpoints)


if __name__ == "__main__":
    main()
