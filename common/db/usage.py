"""What tenants used, by UTC day: written in the transaction that brings it about, read as totals."""

from dataclasses import dataclass
from datetime import date, timedelta
from typing import Any, Final

from sqlalchemy import Connection, func, select
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.expression import FunctionElement
from sqlalchemy.types import Text

from common.db.tables import tenants, usage_days
from common.db.upsert import upsert

SHARDS: Final = 32


@dataclass(frozen=True, slots=True)
class Used:
    """What an attempt made and took: results, and seconds of a device, its share of those spent in company."""

    images: int = 0
    device_seconds: float = 0.0


NOTHING: Final = Used()


@dataclass(frozen=True, slots=True)
class UsageDay:
    """A tenant's UTC day: jobs that ended, results that were made, device seconds of attempts that ended.

    What a lost worker spent on an attempt is not in it: nobody was left who could tell.
    """

    day: date
    jobs: int = 0
    images: int = 0
    device_seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Limits:
    """What a tenant may use; None: no limit of its own."""

    requests_per_minute: int | None
    max_queued: int | None
    images_per_day: int | None
    device_seconds_per_day: float | None
    max_stored_bytes: int | None


class today(FunctionElement[str]):  # noqa: N801 - reads as a SQL function
    """The UTC day by the database clock, as `2026-11-22`."""

    type = Text()
    inherit_cache = True
    name = "today"


def account(connection: Connection, tenant_id: str, *, jobs: int, used: Used) -> None:
    """Add to the tenant's day; nothing is written for nothing.

    To be called after all rows of jobs are locked, tenant by tenant in order. The row is one of those of this database
    session, so that transactions that run at the same time seldom wait for each other.
    """
    if not jobs and used == NOTHING:
        return
    shard = func.pg_backend_pid() % SHARDS if connection.dialect.name == "postgresql" else 0
    row = {"jobs": jobs, "images": used.images, "device_seconds": used.device_seconds}
    statement = upsert(connection, usage_days).values(tenant_id=tenant_id, day=today(), shard=shard, **row)
    added = {name: usage_days.c[name] + statement.excluded[name] for name in row}
    connection.execute(
        statement.on_conflict_do_update(
            index_elements=[usage_days.c.tenant_id, usage_days.c.day, usage_days.c.shard], set_=added
        )
    )


def read_usage(connection: Connection, tenant_id: str, days: int) -> list[UsageDay]:
    """The tenant's last `days` UTC days with today, newest first; those without use are there with zeros."""
    last = date.fromisoformat(connection.execute(select(today())).scalar_one())
    wanted = [last - timedelta(days=number) for number in range(days)]
    sums = (func.sum(usage_days.c[name]).label(name) for name in ("jobs", "images", "device_seconds"))
    mine = (usage_days.c.tenant_id == tenant_id) & (usage_days.c.day >= wanted[-1].isoformat())
    rows = connection.execute(select(usage_days.c.day, *sums).where(mine).group_by(usage_days.c.day))
    found = {date.fromisoformat(row.day): row for row in rows}
    return [_usage_day(day, found.get(day)) for day in wanted]


def find_limits(connection: Connection, tenant_id: str) -> Limits:
    """The limits that stand in the tenant's row."""
    columns = [tenants.c[name] for name in Limits.__dataclass_fields__]
    return Limits(*connection.execute(select(*columns).where(tenants.c.id == tenant_id)).one())


def _usage_day(day: date, row: Any) -> UsageDay:
    if row is None:
        return UsageDay(day)
    return UsageDay(day, int(row.jobs), int(row.images), float(row.device_seconds))  # sums of bigint are Decimals


@compiles(today, "postgresql")
def _postgresql(element: today, compiler: Any, **kw: Any) -> str:
    return "to_char(statement_timestamp() AT TIME ZONE 'UTC', 'YYYY-MM-DD')"


@compiles(today, "sqlite")
def _sqlite(element: today, compiler: Any, **kw: Any) -> str:
    return "strftime('%Y-%m-%d', 'now')"
