"""Many rows at once: COPY on PostgreSQL, one prepared INSERT on SQLite."""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from itertools import repeat
from operator import itemgetter
from typing import Any, Final

from sqlalchemy import JSON, Column, Connection, Table, Text, insert
from sqlalchemy.exc import DBAPIError

from common.db.documents import JsonText, encode_json
from common.db.types import Timestamp

_PIECE_ROWS: Final = 500
_NULL: Final = "\\N"
# What separates columns and rows in the text format, and what says so.
_ESCAPES: Final = str.maketrans({"\\": "\\\\", "\t": "\\t", "\n": "\\n", "\r": "\\r"})

Row = Mapping[str, Any]
Way = Callable[[Sequence[Any]], Iterable[str]]


def insert_rows(connection: Connection, table: Table, rows: Sequence[Row]) -> None:
    """These rows, which all have the same columns; what they leave out gets the database's own default.

    Values are as Python has them, moments aware, documents perhaps as `JsonText`; defaults of the client and SQL
    expressions are not known here. Raises what an INSERT raises.
    """
    if not rows:
        return
    if connection.dialect.name == "sqlite":
        connection.execute(insert(table), [_read(row) for row in rows])
        return
    names = list(rows[0])
    statement = f"COPY {table.name} ({', '.join(names)}) FROM STDIN"
    raw = connection.connection
    try:
        with raw.cursor() as cursor, cursor.copy(statement) as copy:  # type: ignore[attr-defined]
            for piece in _pieces([table.c[name] for name in names], rows):
                copy.write(piece)
    except connection.dialect.loaded_dbapi.Error as error:
        raise _wrapped(connection, statement, error) from error


def _wrapped(connection: Connection, statement: str, error: Exception) -> BaseException:
    """The driver's error as SQLAlchemy would raise it; a connection that is gone leaves the pool."""
    dialect = connection.dialect
    is_gone = dialect.is_disconnect(error, connection.connection.driver_connection, None)  # type: ignore[arg-type]
    if is_gone:
        connection.invalidate(error)
    base = dialect.loaded_dbapi.Error
    return DBAPIError.instance(statement, None, error, base, connection_invalidated=is_gone, dialect=dialect)


def _read(row: Row) -> dict[str, Any]:
    return {name: json.loads(value) if isinstance(value, JsonText) else value for name, value in row.items()}


def _pieces(columns: Sequence[Column[Any]], rows: Sequence[Row]) -> Iterator[str]:
    """The rows in COPY's text format, some hundred at a time. Column by column: most values of one are alike."""
    ways = [_way_of(column) for column in columns]
    values = itemgetter(*(column.name for column in columns))
    for first in range(0, len(rows), _PIECE_ROWS):
        page = rows[first : first + _PIECE_ROWS]
        by_column = zip(*map(values, page), strict=True)
        texts = [_column(way, of_rows) for way, of_rows in zip(ways, by_column, strict=True)]
        yield "\n".join(map("\t".join, zip(*texts, strict=True))) + "\n"


def _column(way: Way, values: Sequence[Any]) -> Iterable[str]:
    first = values[0]
    if all(value is first for value in values):
        (text,) = [_NULL] if first is None else way([first])
        return repeat(text, len(values))
    if None not in values:
        return way(values)
    there = iter(way([value for value in values if value is not None]))
    return [_NULL if value is None else next(there) for value in values]


def _way_of(column: Column[Any]) -> Way:
    """How values of this column, none of them None, are written."""
    if isinstance(column.type, JSON):
        return _documents
    if isinstance(column.type, Text):
        return _texts
    if isinstance(column.type, Timestamp):
        return _moments
    return _numbers


def _texts(values: Sequence[str]) -> Iterable[str]:
    return [value.translate(_ESCAPES) for value in values] if _is_special("".join(values)) else values


def _documents(values: Sequence[Any]) -> Iterable[str]:
    texts = [value if isinstance(value, JsonText) else encode_json(value) for value in values]
    return [text.replace("\\", "\\\\") for text in texts]


def _moments(values: Sequence[datetime]) -> Iterable[str]:
    return [value.isoformat() for value in values]


def _numbers(values: Sequence[float]) -> Iterable[str]:
    return map(repr, values)


def _is_special(text: str) -> bool:
    return "\\" in text or "\t" in text or "\n" in text or "\r" in text
