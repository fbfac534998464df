"""Shared fixtures. A missing service skips on a laptop and fails in CI."""

import os
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis
from sqlalchemy import create_engine, text
from sqlalchemy.exc import OperationalError

from common.db.engine import Database
from common.db.migrate import migrate
from common.db.tables import metadata
from tests.service_urls import POSTGRES, REDIS

pytest_plugins = ["tests.services.fixtures"]


def missing(service: str, error: Exception) -> None:
    """Skip on a laptop, fail in CI."""
    if os.environ.get("CI"):
        pytest.fail(f"{service} is not there, and CI must test it: {error}")
    pytest.skip(f"{service} is not there: {error}")


@pytest.fixture(scope="session")
def postgres_url() -> Iterator[str]:
    """A fresh, migrated PostgreSQL database, dropped at the end."""
    admin = create_engine(POSTGRES, isolation_level="AUTOCOMMIT")
    name = f"darkroom_test_{uuid.uuid4().hex[:10]}"
    try:
        with admin.connect() as connection:
            connection.execute(text(f"CREATE DATABASE {name}"))
    except OperationalError as error:
        missing("PostgreSQL", error)
    url = admin.url.set(database=name).render_as_string(hide_password=False)
    database = Database(url)
    migrate(database)
    database.close()
    yield url
    with admin.connect() as connection:
        connection.execute(text(f"DROP DATABASE {name} WITH (FORCE)"))
    admin.dispose()


@pytest.fixture(scope="session")
def redis_url() -> str:
    """A Redis database for tests, emptied once."""
    client = redis.Redis.from_url(REDIS)
    try:
        client.flushdb()
    except redis.ConnectionError as error:
        missing("Redis", error)
    finally:
        client.close()
    return REDIS


@pytest.fixture
def sqlite_database(tmp_path: Path) -> Iterator[Database]:
    """A migrated SQLite database of this test alone."""
    database = Database(f"sqlite:///{tmp_path / 'darkroom.db'}")
    migrate(database)
    yield database
    database.close()


@pytest.fixture
def postgres_database(postgres_url: str) -> Iterator[Database]:
    """The PostgreSQL database of the session, emptied."""
    database = Database(postgres_url)
    empty(database)
    yield database
    database.close()


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
def database(request: pytest.FixtureRequest) -> Database:
    """Each database in turn: whatever takes this fixture is a contract of both."""
    chosen: Database = request.getfixturevalue(f"{request.param}_database")
    return chosen


def empty(database: Database) -> None:
    """Remove every row but the default tenant."""
    with database.write() as connection:
        names = ", ".join(table.name for table in metadata.sorted_tables if table.name != "tenants")
        connection.execute(text(f"TRUNCATE {names}"))
        connection.execute(text("DELETE FROM tenants WHERE id <> 'default'"))
