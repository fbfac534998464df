"""Moving a batch from one state to another: one conditional UPDATE, and at its end its counts, its deliveries and
the end of its manifest, in the caller's transaction.

Nothing else writes `batches.state` but the INSERT.
"""

from collections.abc import Collection
from typing import Any, Final

from sqlalchemy import Connection, update
from sqlalchemy.sql.elements import ColumnElement

from common.db.announcing import Event, announce_events
from common.db.batch_counts import keep_counts
from common.db.tables import batches, objects
from common.db.types import after_now, now
from common.domain.batch import BatchState

ENDED_MANIFEST_SECONDS: Final = 3600.0
"""So long the manifest of a batch that is over stays."""

_EVENTS: Final = {
    BatchState.COMPLETED: "batch.completed",
    BatchState.REJECTED: "batch.completed",
    BatchState.CANCELED: "batch.canceled",
}
_OVER: Final = {"tend_at": None, "worker_id": None, "lease_until": None}


def move_batch(
    connection: Connection,
    batch_id: str,
    sources: Collection[BatchState],
    target: BatchState,
    condition: ColumnElement[bool],
    values: dict[str, Any] | None = None,
) -> bool:
    """Make the move if the batch is in one of `sources` and the condition holds; False when not, and nothing is done.

    A terminal state lets go of the lease, is never tended again, keeps its counts, and writes its deliveries; the
    courier may be rung after the commit.
    """
    ending = _OVER | {"finished_at": now()} if target.is_terminal else {}
    statement = (
        update(batches)
        .where(batches.c.id == batch_id, batches.c.state.in_(list(sources)), condition)
        .values({"state": target, "version": batches.c.version + 1} | ending | (values or {}))
        .returning(batches.c.tenant_id, batches.c.version, batches.c.manifest_key)
    )
    row = connection.execute(statement).one_or_none()
    if row is None:
        return False
    if target.is_terminal:
        keep_counts(connection, batch_id)
        announce_events(connection, [Event(row.tenant_id, batch_id, row.version, _EVENTS[target])])
        if row.manifest_key is not None:
            keep_manifest(connection, row.manifest_key, ENDED_MANIFEST_SECONDS)
    return True


def keep_manifest(connection: Connection, key: str, seconds: float) -> None:
    """The manifest may go after so long from now on, and not before."""
    connection.execute(update(objects).where(objects.c.key == key).values(expires_at=after_now(seconds)))
