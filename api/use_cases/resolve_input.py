"""From where a request says that an image is, to our own picture of it in the object store.

In two steps, so that a request that is refused, and a dry run, store nothing: `prepare_input`, then `keep_input`.
"""

from dataclasses import dataclass

from api.dependencies import Services
from common.db.earlier_jobs import find_earlier
from common.db.objects import announce, announce_again
from common.db.tenants import Caller
from common.db.uploads import find_upload
from common.domain.errors import Invalid, Problem
from common.domain.job import InputRef
from common.images.untrusted import ImageRejected
from common.outbound.errors import FetchFailed, UrlBlocked
from common.requests.images import ImageSource
from common.requests.references import LIFE_OVER, require_picture, require_result
from common.storage.keys import input_key
from common.storage.port import ObjectMissing


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
            return PreparedInput(require_picture(find_upload(connection, caller.tenant_id, source.upload), pointer))
    assert source.job is not None
    with services.database.read() as connection:
        job = find_earlier(connection, caller.tenant_id, [source.job]).get(source.job)
    image = require_result(job, source.index or 0, pointer)
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
        raise _invalid(pointer, LIFE_OVER)
    return reference


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
