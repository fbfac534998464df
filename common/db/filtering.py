"""Which jobs a list shows."""

from collections.abc import Mapping
from typing import Any

from sqlalchemy import Boolean, select
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.expression import FunctionElement

from common.db.tables import job_requests, jobs


class has_item(FunctionElement[bool]):  # noqa: N801 - reads as a SQL function
    """Whether a JSON list, a column, holds this text as one of its items."""

    type = Boolean()
    inherit_cache = True
    name = "has_item"


def matching(filters: Mapping[str, Any]) -> list[Any]:
    """The conditions of these filters on `jobs`.

    `tag`, the moments `created_after` and `created_before` (both exclusive), or the value of a column of `jobs`. The id
    of a `batch` is left out: it comes with an order.
    """
    return [_condition(name, value) for name, value in filters.items() if name != "batch"]


def _condition(name: str, value: Any) -> Any:
    if name == "tag":  # a look at each job that the others leave, which no planner makes a join
        tags = select(has_item(job_requests.c.tags, value)).where(job_requests.c.job_id == jobs.c.id)
        return tags.correlate(jobs).scalar_subquery()
    if name == "created_after":
        return jobs.c.created_at > value
    if name == "created_before":
        return jobs.c.created_at < value
    return jobs.c[name] == value


@compiles(has_item, "postgresql")
def _postgresql(element: has_item, compiler: Any, **kw: Any) -> str:
    items, text = (compiler.process(clause, **kw) for clause in element.clauses)
    return f"({items} @> to_jsonb(CAST({text} AS text)))"


@compiles(has_item, "sqlite")
def _sqlite(element: has_item, compiler: Any, **kw: Any) -> str:
    items, text = (compiler.process(clause, **kw) for clause in element.clauses)
    return f"EXISTS (SELECT 1 FROM json_each({items}) AS item WHERE item.value = {text})"  # noqa: S608 - SQL of SQLAlchemy's
