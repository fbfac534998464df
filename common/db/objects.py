"""Rows of what lies in the object store, and which jobs need it."""

from typing import Any

from sqlalchemy import Connection, case, func, insert, select, update

from common.db.tables import object_refs, objects, uploads
from common.db.types import after_now, now
from common.db.upsert import upsert
from common.domain.job import InputRef


def keep_input(
    connection: Connection, tenant_id: str, reference: InputRef, *, expires_seconds: float | None = None
) -> None:
    """The row of a prepared input, live again if it was about to go.

    `expires_seconds`: it may go after that if no live job refers to it; None leaves what an earlier keeper said. The
    longer of two lives counts, and an object without an end keeps none.
    """
    row = {
        "key": reference.key,
        "tenant_id": tenant_id,
        "state": "live",
        "kind": "input",
        "sha256": reference.sha256,
        "bytes": reference.bytes,
        "width": reference.width,
        "height": reference.height,
    }
    changes: dict[str, Any] = {"state": "live"}
    statement = upsert(connection, objects).values(row)
    if expires_seconds is not None:
        statement = statement.values(expires_at=after_now(expires_seconds))
        wished = statement.excluded.expires_at
        changes["expires_at"] = case((objects.c.expires_at < wished, wished), else_=objects.c.expires_at)
    connection.execute(statement.on_conflict_do_update(index_elements=[objects.c.key], set_=changes))


def refer_to_input(connection: Connection, tenant_id: str, job_id: str, role: str, reference: InputRef) -> None:
    """The job needs this input from now on: while it lives, the object stays."""
    keep_input(connection, tenant_id, reference)
    connection.execute(
        insert(object_refs).values(object_key=reference.key, job_id=job_id, tenant_id=tenant_id, role=role)
    )


def shorten_life(connection: Connection, tenant_id: str, key: str) -> None:
    """An upload of this object is gone: it lives as long as the longest of the other uploads, without any it is over.

    An object without an end, which a job brought, is left as it is.
    """
    others = select(func.max(uploads.c.expires_at)).where(uploads.c.object_key == key).scalar_subquery()
    mine = (objects.c.key == key) & (objects.c.tenant_id == tenant_id) & objects.c.expires_at.is_not(None)
    connection.execute(update(objects).where(mine).values(expires_at=func.coalesce(others, now())))
