"""Column types and the database clock, alike on PostgreSQL and SQLite."""

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import JSON, BigInteger, Connection, DateTime, Dialect, Integer, select
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.expression import ColumnElement, FunctionElement
from sqlalchemy.types import TypeDecorator

Document = JSON(none_as_null=True).with_variant(JSONB(none_as_null=True), "postgresql")
Whole = BigInteger().with_variant(Integer(), "sqlite")


class Timestamp(TypeDecorator[datetime]):
    """A moment in UTC, aware in Python: `timestamptz` on PostgreSQL, ISO text on SQLite (both sort and compare)."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None or dialect.name != "sqlite":
            return value
        return value.astimezone(UTC).replace(tzinfo=None)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        return value.replace(tzinfo=UTC) if value is not None and value.tzinfo is None else value


class after_now(FunctionElement[datetime]):  # noqa: N801 - reads as a SQL function
    """The database clock plus `seconds` (a number or an expression). Leases are compared with this clock alone."""

    type = Timestamp()
    inherit_cache = True
    name = "after_now"


def now() -> ColumnElement[datetime]:
    """The database clock."""
    return after_now(0)


def read_clock(connection: Connection) -> datetime:
    """The database clock, as a value."""
    return connection.execute(select(now())).scalar_one()


@compiles(after_now, "postgresql")
def _postgresql(element: after_now, compiler: Any, **kw: Any) -> str:
    seconds = compiler.process(element.clauses, **kw)
    return f"(statement_timestamp() + make_interval(secs => CAST({seconds} AS double precision)))"


@compiles(after_now, "sqlite")
def _sqlite(element: after_now, compiler: Any, **kw: Any) -> str:
    seconds = compiler.process(element.clauses, **kw)
    return f"(strftime('%Y-%m-%d %H:%M:%f000', 'now', ({seconds}) || ' seconds'))"
