"""Logs of product code that runs in the process of a test."""

from collections.abc import Iterator
from contextlib import contextmanager

import structlog


@contextmanager
def plain_logs() -> Iterator[None]:
    """As in a process of the product: structlog's own traceback shows every variable of every frame, which takes long.

    For a loaded model that is seconds, on whichever thread logs.
    """
    before = structlog.get_config()["processors"]
    structlog.configure(
        processors=[structlog.processors.format_exc_info, structlog.processors.KeyValueRenderer(["event"])]
    )
    try:
        yield
    finally:
        structlog.configure(processors=before)
