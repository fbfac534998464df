"""Images sent ahead of a job. Every call takes the tenant; the sweeper's takes none."""

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import Connection, Row, delete, insert, select, update

from common.db.cleaning import mark_staged
from common.db.objects import keep_input, shorten_life
from common.db.tables import objects, uploads
from common.db.types import after_now, now
from common.domain.job import InputRef
from common.storage.keys import parse_key

PAGE = 100


class UploadState(StrEnum):
    """Where an upload is: the file is awaited, our own picture of it is stored, or it was not what was declared."""

    PENDING = "pending"
    READY = "ready"
    REJECTED = "rejected"


@dataclass(frozen=True, slots=True)
class Upload:
    """An upload as it is now. `declared_…` are those of a presigned one; `picture` is there once it is ready."""

    id: str
    state: UploadState
    staging_key: str | None
    declared_bytes: int | None
    declared_sha256: str | None
    created_at: datetime
    expires_at: datetime
    is_expired: bool
    picture: InputRef | None


def find_upload(connection: Connection, tenant_id: str, upload_id: str) -> Upload | None:
    """The tenant's upload, also after its life until the sweeper has been by; None when there is none."""
    return find_uploads(connection, tenant_id, [upload_id]).get(upload_id)


def find_uploads(connection: Connection, tenant_id: str, upload_ids: Collection[str]) -> dict[str, Upload]:
    """Those of these uploads, at most 10,000, that the tenant has, by id."""
    columns = (objects.c.sha256, objects.c.bytes, objects.c.width, objects.c.height)
    query = (
        select(uploads, (uploads.c.expires_at <= now()).label("is_expired"), *columns)
        .outerjoin(objects, objects.c.key == uploads.c.object_key)
        .where(uploads.c.id.in_(upload_ids), uploads.c.tenant_id == tenant_id)
    )
    return {row.id: _upload(row) for row in connection.execute(query)} if upload_ids else {}


def insert_ready(
    connection: Connection, tenant_id: str, upload_id: str, picture: InputRef, *, life_seconds: float
) -> None:
    """An upload whose picture lies in the store, and the picture's row."""
    keep_input(connection, tenant_id, picture, expires_seconds=life_seconds)
    row = {"id": upload_id, "tenant_id": tenant_id, "state": UploadState.READY, "object_key": picture.key}
    connection.execute(insert(uploads).values(**row, expires_at=after_now(life_seconds)))


def insert_pending(
    connection: Connection,
    tenant_id: str,
    upload_id: str,
    *,
    staging_key: str,
    declared_bytes: int,
    declared_sha256: str,
    life_seconds: float,
) -> None:
    """An upload whose file is awaited under `staging_key`."""
    row = {
        "id": upload_id,
        "tenant_id": tenant_id,
        "state": UploadState.PENDING,
        "staging_key": staging_key,
        "declared_bytes": declared_bytes,
        "declared_sha256": declared_sha256,
    }
    connection.execute(insert(uploads).values(**row, expires_at=after_now(life_seconds)))


def mark_ready(connection: Connection, tenant_id: str, upload: Upload, picture: InputRef) -> bool:
    """The awaited file came and is this picture. False when the upload is no longer pending."""
    seconds = (upload.expires_at - upload.created_at).total_seconds()
    if not _settle(connection, tenant_id, upload.id, UploadState.READY, picture.key):
        return False
    keep_input(connection, tenant_id, picture, expires_seconds=seconds)
    return True


def mark_rejected(connection: Connection, tenant_id: str, upload_id: str) -> bool:
    """The awaited file came and is not what was declared. False when the upload is no longer pending."""
    return _settle(connection, tenant_id, upload_id, UploadState.REJECTED, None)


def delete_upload(connection: Connection, tenant_id: str, upload_id: str) -> None:
    """Forget the upload. Its picture stays while a live job or another upload needs it."""
    mine = (uploads.c.id == upload_id) & (uploads.c.tenant_id == tenant_id)
    for row in connection.execute(delete(uploads).where(mine).returning(uploads.c.object_key)).all():
        if row.object_key is not None:
            shorten_life(connection, tenant_id, row.object_key)


def forget_expired(connection: Connection) -> int:
    """Remove one page of uploads past their life, whatever their state. Returns how many.

    Their pictures need no word: an object's life ends with that of its longest upload. Files that came and were never
    taken are marked for the cleaner.
    """
    page = select(uploads.c.id).where(uploads.c.expires_at <= now()).order_by(uploads.c.expires_at).limit(PAGE)
    gone = delete(uploads).where(uploads.c.id.in_(page)).returning(uploads.c.staging_key)
    staged = connection.execute(gone).scalars().all()
    mark_staged(connection, [parts for key in staged if key and (parts := parse_key(key))])
    return len(staged)


def _upload(row: Row[Any]) -> Upload:
    has_picture = row.object_key is not None and row.sha256 is not None
    return Upload(
        id=row.id,
        state=UploadState(row.state),
        staging_key=row.staging_key,
        declared_bytes=row.declared_bytes,
        declared_sha256=row.declared_sha256,
        created_at=row.created_at,
        expires_at=row.expires_at,
        is_expired=bool(row.is_expired),
        picture=InputRef(row.object_key, row.sha256, row.bytes, row.width, row.height) if has_picture else None,
    )


def _settle(connection: Connection, tenant_id: str, upload_id: str, state: UploadState, key: str | None) -> bool:
    waiting = (uploads.c.id == upload_id) & (uploads.c.tenant_id == tenant_id)
    statement = update(uploads).where(waiting, uploads.c.state == UploadState.PENDING)
    return connection.execute(statement.values(state=state, object_key=key)).rowcount == 1
