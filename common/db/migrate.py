"""Bringing a database to the schema of this release, and looking whether it is there."""

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, text

from common.db.engine import Database
from common.db.tables import tenants
from common.db.tenants import DEFAULT_TENANT
from common.db.upsert import upsert

_SCRIPTS = Path(__file__).parents[2] / "migrations"
_LOCK = 7_324_581


def migrate(database: Database, revision: str = "head") -> str:
    """Upgrade (or with an older revision downgrade) the schema. Returns the revision that stands afterwards.

    Safe to run from several processes at once: the second waits for the first. A database of a newer release is left
    as it is; this release runs on the next one's schema.
    """
    with database.write() as connection:
        if not database.is_sqlite:
            connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _LOCK})
        if revision == "head" and _is_ahead(current_revision(connection)):
            return current_revision(connection) or "base"
        _run(connection, revision)
        if revision == "head":
            default = upsert(connection, tenants).values(id=DEFAULT_TENANT, name="Default")
            connection.execute(default.on_conflict_do_nothing())
        return current_revision(connection) or "base"


def current_revision(connection: Connection) -> str | None:
    """The revision that the database stands at; None for an empty one."""
    return MigrationContext.configure(connection).get_current_revision()


def head_revision() -> str:
    """The revision that this release was written for."""
    return ScriptDirectory.from_config(_config()).get_current_head() or "base"


def _is_ahead(revision: str | None) -> bool:
    known = {script.revision for script in ScriptDirectory.from_config(_config()).walk_revisions()}
    return revision is not None and revision not in known


def _run(connection: Connection, revision: str) -> None:
    config = _config()
    config.attributes["connection"] = connection
    if revision == "head":
        command.upgrade(config, revision)
    else:
        command.downgrade(config, revision)


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(_SCRIPTS))
    return config
