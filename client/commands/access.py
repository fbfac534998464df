"""`darkroom keys create`, `darkroom tenants create`: who may ask."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from client.commands.failing import Failure, needs, read_settings
from client.commands.options import parse_duration

if TYPE_CHECKING:
    from sqlalchemy import Connection

keys = typer.Typer(no_args_is_help=True, help="API keys.")
tenants = typer.Typer(no_args_is_help=True, help="Tenants, who own jobs and keys.")
_notes = Console(stderr=True)


@keys.callback()
@tenants.callback()
def _group() -> None:
    """Keeps the verb where a group has only one."""


@keys.command(name="create")
def create_key(
    name: Annotated[str, typer.Option(help="What the key is for.")],
    tenant: Annotated[str, typer.Option(help="Whose key it is.")] = "default",
    scopes: Annotated[str, typer.Option(help="What it may do, with commas.")] = "jobs:read,jobs:write",
    expires: Annotated[str | None, typer.Option(help="How long it is valid, such as 30d; default: for ever.")] = None,
) -> None:
    """Make an API key and print it, this once."""
    seconds = parse_duration(expires)
    with _database() as connection:
        from common.db import tenants as access

        wanted = [scope.strip() for scope in scopes.split(",")]
        if unknown := sorted(set(wanted) - set(access.SCOPES)):
            raise Failure(f"no such scope: {', '.join(unknown)}; there are {', '.join(access.SCOPES)}", exit_code=2)
        if not access.has_tenant(connection, tenant):
            raise Failure(f"there is no tenant {tenant!r}: darkroom tenants create {tenant}")
        key = access.create_key(connection, tenant, name=name, scopes=wanted, expires_seconds=seconds)
    _notes.print("This key is shown only now; the database keeps its digest.")
    print(key)


@tenants.command(name="create")
def create_tenant(
    tenant: Annotated[str, typer.Argument(help="Id of the tenant.")],
    name: Annotated[str | None, typer.Option(help="Name for people; default: the id.")] = None,
) -> None:
    """Make a tenant."""
    with _database() as connection:
        from common.db import tenants as access

        if access.has_tenant(connection, tenant):
            raise Failure(f"there is a tenant {tenant!r} already")
        access.create_tenant(connection, tenant, name or tenant)
    print(tenant)


@contextmanager
def _database() -> "Iterator[Connection]":
    settings = read_settings()
    with needs("server"):
        from common.db.engine import Database
        from common.db.migrate import current_revision
    database = Database(settings.database)
    try:
        with database.write() as connection:
            if current_revision(connection) is None:
                raise Failure("the database has no schema yet: darkroom migrate")
            yield connection
    finally:
        database.close()
