"""Short constructors for the columns of `common.db.tables`: every one takes its comment, which the docs print."""

from typing import Any

from sqlalchemy import Boolean, Column, Float, ForeignKey, Text, text

from common.db.types import Document, Timestamp, Whole, now


def text_column(name: str, comment: str, *more: Any, **kw: Any) -> Column[str]:
    """A text column, not null unless said."""
    return Column(name, Text, *more, nullable=kw.pop("nullable", False), comment=comment, **kw)


def integer(name: str, comment: str, default: int | None = None, **kw: Any) -> Column[int]:
    """A 64-bit integer column; `default` is the database's own."""
    return Column(
        name, Whole, nullable=kw.pop("nullable", False), server_default=_literal(default), comment=comment, **kw
    )


def number(name: str, comment: str, default: float | None = None, **kw: Any) -> Column[float]:
    """A double precision column; `default` is the database's own."""
    return Column(
        name, Float, nullable=kw.pop("nullable", False), server_default=_literal(default), comment=comment, **kw
    )


def flag(name: str, comment: str) -> Column[bool]:
    """A boolean that is false unless set."""
    return Column(name, Boolean, nullable=False, server_default=text("false"), comment=comment)


def moment(name: str, comment: str, **kw: Any) -> Column[Any]:
    """A moment in UTC, null unless said."""
    return Column(name, Timestamp, nullable=kw.pop("nullable", True), comment=comment, **kw)


def created_at() -> Column[Any]:
    """When the row was written, by the database clock."""
    return moment("created_at", "when the row was written, database clock", nullable=False, default=now())


def document(name: str, comment: str, *, nullable: bool = False) -> Column[Any]:
    """A JSON column: `jsonb` on PostgreSQL, text on SQLite."""
    return Column(name, Document, nullable=nullable, comment=comment)


def tenant_id(**kw: Any) -> Column[str]:
    """Whose row it is."""
    return text_column("tenant_id", "whose row it is", ForeignKey("tenants.id"), **kw)


def job_id(**kw: Any) -> Column[str]:
    """The job that the row belongs to."""
    return text_column("job_id", "the job", ForeignKey("jobs.id", ondelete="CASCADE"), **kw)


def _literal(default: float | None) -> Any:
    return None if default is None else text(str(default))
