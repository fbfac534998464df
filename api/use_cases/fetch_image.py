"""Handing out a result."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from api.dependencies import Services
from api.use_cases.look_up import require_job
from common.clock import utc_now
from common.db.jobs import find_image, find_preview
from common.db.tenants import Caller
from common.domain.errors import NotFound
from common.domain.job import GRID_INDEX, StoredImage
from common.storage.port import ObjectMissing

_MOST_IMAGES: Final = 160


@dataclass(frozen=True, slots=True)
class Fetched:
    """A result: the URL that answers its bytes, or without one the means to read them."""

    image: StoredImage
    filename: str
    url: str | None


def find_result(services: Services, caller: Caller, job_id: str, index: int, *, as_download: bool) -> Fetched:
    """Result `index` of a job, or its grid with `GRID_INDEX`.

    Raises `NotFound` when there is none (yet), `gone` after its life.
    """
    with services.database.read() as connection:
        job = require_job(connection, caller.tenant_id, job_id)
        image = job.grid
        if index != GRID_INDEX:
            image = find_image(connection, caller.tenant_id, job_id, index) if index < _MOST_IMAGES else None
    if job.expires_at is not None and job.expires_at <= utc_now():
        raise NotFound("the life of the job's results is over", code="gone")
    if image is None:
        raise NotFound("the job has no such image (yet)")
    name = "grid" if index == GRID_INDEX else str(index)
    filename = f"{job_id}-{name}.{image.content_type.rpartition('/')[2].replace('jpeg', 'jpg')}"
    url = services.store.presign_get(
        image.key,
        expires_seconds=services.settings.result_url_seconds,
        content_type=image.content_type,
        filename=filename if as_download else None,
    )
    return Fetched(image, filename, url)


def read_result(services: Services, image: StoredImage) -> bytes:
    """The bytes of a result; raises `NotFound` (`gone`) when its life is over, `StoreUnavailable`."""
    try:
        return services.store.get(image.key)
    except ObjectMissing:
        raise NotFound("the image is no longer stored", code="gone") from None


def look_at_preview(
    services: Services, caller: Caller, job_id: str, is_known: Callable[[str], bool]
) -> tuple[str, bytes | None] | None:
    """The tag of the newest preview of a running job and its bytes (JPEG), None when there is none.

    The bytes are None, and not read, where the tag is known. Raises `NotFound`.
    """
    with services.database.read() as connection:
        tag = require_job(connection, caller.tenant_id, job_id).preview_tag
        if tag is None:
            return None
        if is_known(tag):
            return tag, None
        picture = find_preview(connection, caller.tenant_id, job_id)
    return None if picture is None else (tag, picture)
