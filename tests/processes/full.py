"""The full deployment with an API, for tests and benchmarks: PostgreSQL, Redis, a local folder or S3 as the store."""

import socket
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
from sqlalchemy import create_engine, text

from tests.processes.harness import Stack, eventually, stack
from tests.service_urls import POSTGRES, REDIS


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def answers(url: str) -> bool:
    """Whether an API is ready here."""
    try:
        return httpx.get(f"{url}/readyz", timeout=2).is_success
    except httpx.HTTPError:
        return False


def start_api(built: Stack) -> str:
    """Start the stack's API and wait until it answers. Returns its base URL."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    built.start("client.cli", "api", "--port", str(port))
    eventually(lambda: answers(url), what="the API's first answer")
    return url


@contextmanager
def fresh_postgres() -> Iterator[str]:
    """The URL of an empty database, dropped with the block."""
    admin = create_engine(POSTGRES, isolation_level="AUTOCOMMIT")
    name = f"darkroom_{uuid.uuid4().hex[:10]}"
    with admin.connect() as connection:
        connection.execute(text(f"CREATE DATABASE {name}"))
    try:
        yield admin.url.set(database=name).render_as_string(hide_password=False)
    finally:
        with admin.connect() as connection:
            connection.execute(text(f"DROP DATABASE {name} WITH (FORCE)"))
        admin.dispose()


@contextmanager
def full_stack(folder: Path, **environment: str) -> Iterator[tuple[Stack, str]]:
    """A full stack with an API and a base URL; with `DARKROOM_DEVICE=cpu` it has the built-in models, not the stub.

    Clocks are the real ones, as a user has them.
    """
    real = {"DARKROOM_LEASE_SECONDS": "30", "DARKROOM_HEARTBEAT_SECONDS": "5", "DARKROOM_SWEEP_SECONDS": "5"}
    real |= {"DARKROOM_POLL_SECONDS": "1", "DARKROOM_WISH_SECONDS": "0.5"}
    if environment.get("DARKROOM_DEVICE") == "cpu":
        real["DARKROOM_MODELS_FILE"] = ""
    with fresh_postgres() as database_url:
        services = {"DARKROOM_DATABASE_URL": database_url, "DARKROOM_BROKER_URL": REDIS}
        with stack(folder, **(real | services | environment)) as built:
            yield built, start_api(built)
