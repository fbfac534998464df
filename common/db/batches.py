"""What a tenant does with batches: hand in, look, list. Every call takes the tenant, but those that watch.

What changes a batch stands in `common.db.batch_wishes`, what a courier does with it in `common.db.batch_work`.
"""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import Connection, Row, Select, insert, select

from common.db.batch_counts import counted, counts_in
from common.db.batch_moves import keep_manifest
from common.db.objects import ANNOUNCED_SECONDS
from common.db.tables import batches, objects
from common.db.types import after_now, now
from common.db.upsert import upsert
from common.domain.batch import BatchSnapshot, BatchState
from common.domain.fairness import Lane

__all__ = [
    "NewBatch",
    "announce_manifest",
    "find_batch",
    "find_states",
    "insert_batch",
    "keep_manifest",
    "list_batches",
]

_COPIED: Final = (
    "id",
    "tenant_id",
    "name",
    "version",
    "lane",
    "total",
    "validated",
    "inserted",
    "retry_of",
    "created_at",
    "started_at",
    "finished_at",
)


@dataclass(frozen=True, slots=True)
class NewBatch:
    """A batch whose manifest of `total` lines lies in the store, before its row exists.

    `request` has `defaults`, `on_invalid`, `metadata` and, of a retry, `overrides`.
    """

    id: str
    tenant_id: str
    name: str | None
    lane: Lane
    total: int
    manifest_key: str
    request: dict[str, Any]
    retry_of: str | None = None


def insert_batch(connection: Connection, new: NewBatch) -> None:
    """The batch's row: `validating`, and due for a courier now. Ring it after the commit."""
    values = {name: getattr(new, name) for name in NewBatch.__dataclass_fields__}
    connection.execute(insert(batches).values(values | {"state": BatchState.VALIDATING, "tend_at": now()}))


def find_batch(connection: Connection, tenant_id: str, batch_id: str) -> BatchSnapshot | None:
    """The batch with the counts of the same moment, or None when this tenant has no such one."""
    query = _snapshots().where(batches.c.id == batch_id, batches.c.tenant_id == tenant_id)
    row = connection.execute(query).one_or_none()
    return None if row is None else _snapshot(row)


def list_batches(
    connection: Connection, tenant_id: str, *, limit: int, after: str | None, filters: dict[str, Any]
) -> list[BatchSnapshot]:
    """The tenant's batches, newest first, at most `limit`, older than the id `after`. `filters`: `state`."""
    mine = [batches.c[name] == value for name, value in filters.items()]
    query = _snapshots().where(batches.c.tenant_id == tenant_id, *mine).order_by(batches.c.id.desc()).limit(limit)
    if after is not None:
        query = query.where(batches.c.id < after)
    return [_snapshot(row) for row in connection.execute(query)]


def find_states(connection: Connection, batch_ids: Collection[str]) -> dict[str, tuple[BatchState, int]]:
    """State and version of these batches, of whatever tenant; unknown ids are left out. Counts nothing."""
    query = select(batches.c.id, batches.c.state, batches.c.version).where(batches.c.id.in_(batch_ids))
    return {row.id: (BatchState(row.state), row.version) for row in connection.execute(query)}


def announce_manifest(connection: Connection, tenant_id: str, key: str, bytes_: int, sha256: str) -> None:
    """A manifest is about to be stored: its object stays for an hour, and longer by `keep_manifest`.

    To be committed before the store is asked, so that nothing lies there that nobody knows.
    """
    row = {"state": "live", "sha256": sha256, "bytes": bytes_, "expires_at": after_now(ANNOUNCED_SECONDS)}
    statement = upsert(connection, objects).values(row | {"key": key, "tenant_id": tenant_id, "kind": "manifest"})
    connection.execute(statement.on_conflict_do_update(index_elements=[objects.c.key], set_=row))


def _snapshots() -> Select[Any]:
    """Batches with what is counted of those that are not over."""
    return select(batches, *counted())


def _snapshot(row: Row[Any]) -> BatchSnapshot:
    members = row._mapping
    errors = row.errors or {}
    return BatchSnapshot(
        **{name: members[name] for name in _COPIED},
        state=BatchState(row.state),
        counts=counts_in(row),
        on_invalid=row.request.get("on_invalid", "reject"),
        errors=errors.get("first", []),
        error_count=errors.get("count", 0),
        cancel_requested=row.cancel_requested_at is not None,
        metadata=row.request.get("metadata", {}),
    )
