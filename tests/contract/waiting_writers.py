"""Two transactions that meet: the second waits for the first one's commit, and then has to see what it wrote."""

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

from sqlalchemy import text

from common.db.engine import Database
from tests.waiting import wait_until


def is_waiting(database: Database) -> bool:
    """Whether a transaction waits for a lock of another; on SQLite every second writer does, outside of our sight."""
    if database.is_sqlite:
        return True
    waits = "SELECT 1 FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    with database.read() as connection:
        return connection.execute(text(waits)).first() is not None


@contextmanager
def after_commit_of(
    database: Database, first: Callable[[Any], object], second: Callable[[], Any]
) -> Iterator[Future[Any]]:
    """`second` begins while the transaction of `first` is open, and is still waiting for it when that commits."""
    with ThreadPoolExecutor(1) as pool:
        with database.write() as connection:
            first(connection)
            begun = pool.submit(second)
            wait_until(lambda: is_waiting(database))
        yield begun
