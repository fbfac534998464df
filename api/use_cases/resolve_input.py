"""From where a request says that an image is, to our own picture of it in the object store.

In two steps, so that a request that is refused, and a dry run, store nothing: `prepare_input`, then `keep_input`.
"""

from dataclasses import dataclass
from typing import Final

from sqlalchemy import Connection

from api.dependencies import Services
from common.clock import utc_now
from common.db.jobs import find_image, find_job
from common.db.objects import announce, announce_again
from common.db.tenants import Caller
from common.db.uploads import UploadState, find_upload
from common.domain.errors import Invalid, Problem
from common.domain.job import InputRef, StoredImage
from common.domain.lifecycle import JobState
from common.images.untrusted import ImageRejected
from common.outbound.errors import FetchFailed, UrlBlocked
from common.requests.images import ImageSource
from common.storage.keys import input_key
from common.storage.port import ObjectMissing

_NOT_READY: Final = {
    UploadState.PENDING: "the upload is not complete; PUT its file, then POST its /complete",
    UploadState.REJECTED: "the upload was rejected; its file was not what was declared",
}


@dataclass(frozen=True, slots=True)
class PendingUrl:
    """An image that a courier has yet to fetch, from a URL that may be fetched."""

    url: str


@dataclass(frozen=True, slots=True)
class PreparedInput:
    """Our own picture of an input. `png` are its bytes where they may not lie in the store yet.

    `has_alpha` is None where only the store could tell.
    """

    reference: InputRef
    png: bytes | None = None
    has_alpha: bool | None = None


def resolve_input(services: Services, caller: Caller, source: ImageSource, pointer: str) -> InputRef | PendingUrl:
    """The input, stored. Raises `Invalid` naming the member of the source at `pointer`, `StoreUnavailable`."""
    prepared = prepare_input(services, caller, source, pointer)
    return prepared if isinstance(prepared, PendingUrl) else keep_input(services, caller, prepared, pointer)


def prepare_input(services: Services, caller: Caller, source: ImageSource, pointer: str) -> PreparedInput | PendingUrl:
    """The input, of which nothing is stored yet. Raises as `resolve_input` does."""
    if source.data is not None:
        return prepare_bytes(services, caller, source.data, pointer)
    if source.url is not None:
        return _check_url(services, source.url, f"{pointer}/url")
    if source.upload is not None:
        with services.database.read() as connection:
            return PreparedInput(require_upload(connection, caller.tenant_id, source.upload, f"{pointer}/upload"))
    assert source.job is not None
    with services.database.read() as connection:
        image = find_result_as_input(connection, caller.tenant_id, source.job, source.index or 0, pointer)
    try:
        data = services.store.get(image.key)
    except ObjectMissing:
        raise _invalid(f"{pointer}/job", "the image of this job is no longer stored") from None
    return prepare_bytes(services, caller, data, pointer)


def prepare_bytes(services: Services, caller: Caller, data: bytes, pointer: str) -> PreparedInput:
    """The file that a client sent (or that we made), decoded. Raises `Invalid` with the decoder's code."""
    try:
        image = services.decoder.decode(data)
    except ImageRejected as error:
        raise Invalid([Problem(pointer, error.code, error.detail)]) from None
    key = input_key(caller.tenant_id, image.sha256)
    reference = InputRef(key, image.sha256, len(image.png), image.width, image.height)
    return PreparedInput(reference, image.png, image.has_alpha)


def keep_input(services: Services, caller: Caller, prepared: PreparedInput, pointer: str) -> InputRef:
    """Store what is prepared, or make sure that what was stored before stays. Unused, it goes after an hour.

    Raises `Invalid` at `pointer` when what was stored before is about to go.
    """
    reference, png = prepared.reference, prepared.png
    if png is not None:
        services.database.transact(lambda connection: announce(connection, caller.tenant_id, reference))
        services.store.put(reference.key, png, "image/png", if_absent=True)
    elif not services.database.transact(lambda c: announce_again(c, caller.tenant_id, reference.key)):
        raise _invalid(pointer, "the life of this image is over; send it again")
    return reference


def require_upload(connection: Connection, tenant_id: str, upload_id: str, pointer: str) -> InputRef:
    """The picture of the tenant's upload. Raises `Invalid` for one that is unknown, expired or not ready."""
    upload = find_upload(connection, tenant_id, upload_id)
    if upload is None:
        raise _invalid(pointer, "there is no such upload")
    if upload.is_expired:
        raise _invalid(pointer, "the upload's life is over; send it again")
    if upload.picture is None:
        raise _invalid(pointer, _NOT_READY.get(upload.state, "the upload's picture is no longer there"))
    return upload.picture


def find_result_as_input(connection: Connection, tenant_id: str, job_id: str, index: int, pointer: str) -> StoredImage:
    """Result `index` of the tenant's job. Raises `Invalid` unless the job succeeded and its results are still there.

    The code is `gone` for a job that was erased.
    """
    job = find_job(connection, tenant_id, job_id)
    if job is None:
        raise _invalid(f"{pointer}/job", "there is no such job")
    if job.erased_at is not None:
        raise Invalid([Problem(f"{pointer}/job", "gone", "the job has been erased")])
    if job.state is not JobState.SUCCEEDED:
        raise _invalid(f"{pointer}/job", f"the job is {job.state}; only one that succeeded has images")
    if job.expires_at is not None and job.expires_at <= utc_now():
        raise _invalid(f"{pointer}/job", "the life of the job's images is over")
    image = find_image(connection, tenant_id, job_id, index)
    if image is None:
        raise _invalid(f"{pointer}/index", f"the job has {len(job.images)} images; an index counts from 0")
    return image


def _check_url(services: Services, url: str, pointer: str) -> PendingUrl:
    """A name that cannot be looked up right now is no reason to refuse: the courier will try again."""
    try:
        services.outbound.check(url)
    except UrlBlocked as error:
        raise Invalid([Problem(pointer, error.code, error.detail)]) from None
    except FetchFailed:
        pass
    return PendingUrl(url)


def _invalid(pointer: str, detail: str) -> Invalid:
    return Invalid([Problem(pointer, "validation_error", detail)])
