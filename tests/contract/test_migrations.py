"""Migrations: linear, reversible, and ending where the tables say, on both databases."""

from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import text

from common.db.engine import Database
from common.db.migrate import _config, current_revision, head_revision, migrate
from common.db.tables import metadata


def test_the_migrated_schema_is_the_one_in_the_tables(database: Database) -> None:
    with database.read() as connection:
        assert compare_metadata(MigrationContext.configure(connection), metadata) == []


def test_migrations_go_down_and_up_again(database: Database) -> None:
    assert migrate(database, "base") == "base"
    assert migrate(database) == head_revision()
    with database.read() as connection:
        assert current_revision(connection) == head_revision()


def test_migrating_twice_changes_nothing(database: Database) -> None:
    assert migrate(database) == migrate(database) == head_revision()


def test_the_revisions_are_one_line() -> None:
    script = ScriptDirectory.from_config(_config())
    assert len(script.get_heads()) == len(script.get_bases()) == 1
    assert all(not isinstance(revision.down_revision, tuple) for revision in script.walk_revisions())


def test_a_database_of_a_newer_release_is_left_as_it_is(database: Database) -> None:
    with database.write() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    try:
        assert migrate(database) == "9999"
    finally:
        with database.write() as connection:
            connection.execute(text("UPDATE alembic_version SET version_num = :head"), {"head": head_revision()})
