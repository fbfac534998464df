"""Images sent ahead of a job: in one request, or straight to the object store and completed afterwards."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from sqlalchemy import Connection

from api.dependencies import Services
from api.schemas.uploads import PresignRequest
from api.use_cases.resolve_input import PreparedInput, keep_input, prepare_bytes
from common.db import uploads
from common.db.tenants import Caller
from common.db.uploads import Upload, UploadState
from common.domain.errors import Conflict, Invalid, NotFound, Problem
from common.ids import is_id, new_id
from common.storage.keys import upload_key
from common.storage.port import ObjectMissing

LIFE_SECONDS: Final = 24 * 3600
PUT_SECONDS: Final = 15 * 60


@dataclass(frozen=True, slots=True)
class Awaited:
    """A pending upload and how its file comes: by one PUT to `url`, or without one to our own address."""

    upload: Upload
    url: str | None
    headers: Mapping[str, str]
    until: datetime


def upload_image(services: Services, caller: Caller, data: bytes) -> Upload:
    """Decode and store the image. Raises `Invalid` for what is no image, with nothing stored."""
    picture = keep_input(services, caller, prepare_bytes(services, caller, data, "/file"), "/file")
    upload_id = new_id("upl")
    with services.database.write() as connection:
        uploads.insert_ready(connection, caller.tenant_id, upload_id, picture, life_seconds=LIFE_SECONDS)
        return _require(connection, caller, upload_id)


def presign_upload(services: Services, caller: Caller, request: PresignRequest) -> Awaited:
    """An upload whose file is to come. Raises `Invalid` for one that is too long."""
    limit = services.settings.max_image_bytes
    if request.bytes > limit:
        detail = f"bytes must be at most {limit}, not {request.bytes}"
        raise Invalid([Problem("/bytes", "validation_error", detail, {"minimum": 1, "maximum": limit})])
    upload_id = new_id("upl")
    key = upload_key(caller.tenant_id, upload_id)
    presigned = services.store.presign_put(
        key,
        content_type=request.content_type,
        size_bytes=request.bytes,
        sha256=request.sha256,
        expires_seconds=PUT_SECONDS,
    )
    with services.database.write() as connection:
        uploads.insert_pending(
            connection,
            caller.tenant_id,
            upload_id,
            staging_key=key,
            declared_bytes=request.bytes,
            declared_sha256=request.sha256,
            life_seconds=LIFE_SECONDS,
        )
        upload = _require(connection, caller, upload_id)
    if presigned is None:
        headers = {"Content-Type": request.content_type, "Content-Length": str(request.bytes)}
        return Awaited(upload, None, headers, upload.expires_at)
    return Awaited(upload, presigned.url, presigned.headers, upload.created_at + timedelta(seconds=PUT_SECONDS))


def require_pending(services: Services, caller: Caller, upload_id: str) -> Upload:
    """The upload whose file may still come. Raises `NotFound`, `Conflict` for one that has its file."""
    upload = look_at_upload(services, caller, upload_id)
    if upload.state is not UploadState.PENDING:
        raise Conflict(f"the upload is {upload.state}; its file cannot be replaced")
    return upload


def receive_content(services: Services, upload: Upload, data: bytes) -> None:
    """Put the file of a pending upload where the object store would have put it. What it is, `complete` looks at."""
    assert upload.staging_key is not None
    services.store.put(upload.staging_key, data, "application/octet-stream")


def complete_upload(services: Services, caller: Caller, upload_id: str) -> Upload:
    """Take the file that came and store our own picture of it. A ready upload is answered as it is.

    Raises `Conflict` when no file has come, or the upload was rejected; `Invalid` when the file is not what was
    declared or no image: then the upload is rejected for good.
    """
    upload = look_at_upload(services, caller, upload_id)
    if upload.state is UploadState.READY:
        return upload
    if upload.state is UploadState.REJECTED:
        raise Conflict("the upload was rejected; make a new one")
    try:
        prepared = _examine(services, caller, upload)
    except ObjectMissing:
        return _completed_by_another(services, caller, upload_id)
    except Invalid:
        with services.database.write() as connection:
            uploads.mark_rejected(connection, caller.tenant_id, upload.id)
        _drop_staged(services, upload)
        raise
    picture = keep_input(services, caller, prepared, "/file")
    with services.database.write() as connection:
        uploads.mark_ready(connection, caller.tenant_id, upload, picture)
        completed = _require(connection, caller, upload_id)
    _drop_staged(services, upload)
    return completed


def look_at_upload(services: Services, caller: Caller, upload_id: str) -> Upload:
    """The upload as it is now. Raises `NotFound`, also (`gone`) after its life."""
    with services.database.read() as connection:
        return _require(connection, caller, upload_id)


def forget_upload(services: Services, caller: Caller, upload_id: str) -> None:
    """Delete the upload; jobs that use its picture keep it. Raises `NotFound`."""
    with services.database.write() as connection:
        upload = _require(connection, caller, upload_id)
        uploads.delete_upload(connection, caller.tenant_id, upload.id)
    if upload.state is UploadState.PENDING:
        _drop_staged(services, upload)


def _require(connection: Connection, caller: Caller, upload_id: str) -> Upload:
    """Malformed, foreign and unknown ids cannot be told apart."""
    upload = uploads.find_upload(connection, caller.tenant_id, upload_id) if is_id(upload_id, "upl") else None
    if upload is None:
        raise NotFound("there is no such upload")
    if upload.is_expired:
        raise NotFound("the upload's life is over", code="gone")
    return upload


def _examine(services: Services, caller: Caller, upload: Upload) -> PreparedInput:
    """The staged file as our own picture.

    Raises `Invalid` when it is not the declared one, or no image; `ObjectMissing` when there is none.
    """
    data = _read_staged(services, upload)
    if len(data) != upload.declared_bytes:
        detail = f"the file that came has {len(data)} bytes, not the declared {upload.declared_bytes}"
        raise Invalid([Problem("/bytes", "validation_error", detail)])
    if hashlib.sha256(data).hexdigest() != upload.declared_sha256:
        raise Invalid([Problem("/sha256", "validation_error", "the file that came has not the declared SHA-256")])
    return prepare_bytes(services, caller, data, "/file")


def _read_staged(services: Services, upload: Upload) -> bytes:
    """What came, counted: never more than one piece beyond what was declared."""
    assert upload.staging_key is not None
    assert upload.declared_bytes is not None
    data = bytearray()
    for piece in services.store.stream(upload.staging_key):
        data += piece
        if len(data) > upload.declared_bytes:
            detail = f"the file that came has more than the declared {upload.declared_bytes} bytes"
            raise Invalid([Problem("/bytes", "validation_error", detail)])
    return bytes(data)


def _completed_by_another(services: Services, caller: Caller, upload_id: str) -> Upload:
    """Of two requests at once the slower finds no file, because the other has just taken it."""
    upload = look_at_upload(services, caller, upload_id)
    if upload.state is not UploadState.READY:
        raise Conflict("no file has come yet; PUT it to put.url first")
    return upload


def _drop_staged(services: Services, upload: Upload) -> None:
    if upload.staging_key is not None:
        services.store.delete(upload.staging_key)
