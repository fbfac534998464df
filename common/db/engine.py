"""The database: one engine per process, explicit transactions, and the errors of a database that is away."""

import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy import Connection, Engine, create_engine, event, make_url, text
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from common.domain.errors import Unavailable

_BUSY_MILLISECONDS = 10_000
# Without these a connection that died silently blocks its thread for a quarter of an hour.
_KEEPALIVES = {
    "keepalives_idle": 5,
    "keepalives_interval": 2,
    "keepalives_count": 3,
    "tcp_user_timeout": 10_000,
}
_PASSING_CLASSES = frozenset({"08", "40", "53", "55", "57", "58"})
_READ_ONLY = "25006"
_CONTENTION = frozenset({"40001", "40P01"})  # serialisation failure, deadlock
_CONTENTION_PAUSES_SECONDS = (0.02, 0.05, 0.1, 0.2)

Answer = TypeVar("Answer")


class Contention(Unavailable):
    """Another transaction was in the way, and the database rolled this one back: nothing of it was done."""


class Database:
    """A pool of connections; `write` and `read` are the only ways to a transaction.

    Both raise `Unavailable` when the database cannot be reached; a commit whose outcome is unknown does too.
    """

    def __init__(self, url: str, *, pool_size: int = 8) -> None:
        self.engine = _sqlite(url) if url.startswith("sqlite") else _postgresql(url, pool_size)
        # SQLite has one writer, and its waiting is unfair: within a process threads queue up here instead.
        self._turn: AbstractContextManager[object] = threading.Lock() if self.is_sqlite else nullcontext()

    @property
    def is_sqlite(self) -> bool:
        """True for the embedded database."""
        return self.engine.dialect.name == "sqlite"

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """A transaction that commits at the end of the block and rolls back on an exception."""
        with _translated(), self._turn, self.engine.begin() as connection:
            yield connection

    def transact(self, work: Callable[[Connection], Answer]) -> Answer:
        """What `work` answers in a transaction of its own; begun anew, a few times, when another one was in its way.

        A deadlock or a serialisation failure is certain to have left nothing behind. Raises as `write` does.
        """
        for pause in _CONTENTION_PAUSES_SECONDS:
            try:
                with self.write() as connection:
                    return work(connection)
            except Contention:
                time.sleep(random.uniform(0, pause))  # noqa: S311 - spreads retries
        with self.write() as connection:
            return work(connection)

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """A read-only look; never blocks or is blocked by a writer."""
        with _translated(), self.engine.connect() as connection:
            if self.is_sqlite:
                connection = connection.execution_options(darkroom_read=True)
            with connection.begin():
                yield connection

    def ping(self) -> None:
        """Raises `Unavailable` when the database does not answer."""
        with self.read() as connection:
            connection.execute(text("SELECT 1"))

    def close(self) -> None:
        """Close every pooled connection."""
        self.engine.dispose()


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except DBAPIError as error:
        if _sqlstate(error) in _CONTENTION:
            raise Contention("the database was busy with the same rows") from error
        if isinstance(error, (OperationalError, InterfaceError)):
            raise Unavailable("the database does not answer") from error
        if error.connection_invalidated or _is_passing(error):
            raise Unavailable("the database cannot take this right now") from error
        raise
    except PoolTimeout as error:
        raise Unavailable("the database does not answer") from error


def _sqlstate(error: DBAPIError) -> str:
    return str(getattr(error.orig, "sqlstate", None) or "")


def _is_passing(error: DBAPIError) -> bool:
    """True for what the database itself will be over: connection, rollback, resources, shutdown, read-only standby."""
    state = _sqlstate(error)
    return state[:2] in _PASSING_CLASSES or state == _READ_ONLY


def _postgresql(url: str, pool_size: int) -> Engine:
    # A process that is stopped inside a transaction must not keep its row locks: the sweeper could not rescue its jobs.
    options = "-c timezone=UTC -c idle_in_transaction_session_timeout=10s -c statement_timeout=60s"
    connect = {"connect_timeout": 2, "application_name": "darkroom", "options": options} | _KEEPALIVES
    return create_engine(
        url, pool_size=pool_size, max_overflow=pool_size, pool_timeout=2, pool_pre_ping=True, connect_args=connect
    )


def _sqlite(url: str) -> Engine:
    if database := make_url(url).database:
        Path(database).parent.mkdir(parents=True, exist_ok=True)
    engine = create_engine(url, connect_args={"timeout": _BUSY_MILLISECONDS / 1000, "check_same_thread": False})
    event.listen(engine, "connect", _configure_sqlite)
    event.listen(engine, "begin", _begin_sqlite)
    return engine


def _configure_sqlite(connection: Any, record: Any) -> None:
    connection.isolation_level = None  # we say BEGIN ourselves
    cursor = connection.cursor()
    for pragma in (
        "journal_mode = WAL",
        "synchronous = FULL",
        "foreign_keys = ON",
        f"busy_timeout = {_BUSY_MILLISECONDS}",
    ):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _begin_sqlite(connection: Connection) -> None:
    """Every write starts as IMMEDIATE: a SELECT that upgrades later is how two workers claim one job."""
    read_only = connection.get_execution_options().get("darkroom_read", False)
    connection.exec_driver_sql("BEGIN" if read_only else "BEGIN IMMEDIATE")
