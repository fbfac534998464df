"""The images that all lines of a batch share: decoded once, not with every line."""

from collections.abc import Mapping
from typing import Any, Final

from api.dependencies import Services
from api.use_cases.resolve_input import keep_input, prepare_bytes
from common.db.tenants import Caller
from common.db.uploads import insert_ready
from common.ids import new_id
from common.requests.images import ImageSource
from common.requests.jobs import ROLES

KEPT_SECONDS: Final = 7 * 24 * 3600
"""So long a batch may wait for a courier: its manifest and these images are there for it."""


def keep_images(services: Services, caller: Caller, fields: Mapping[str, Any], pointer: str) -> dict[str, Any]:
    """The same fields, which are in order, with an upload in place of each image that was given as `data`.

    Raises `Invalid` with pointers below `pointer` for what is no image.
    """
    kept = dict(fields)
    for role in ROLES:
        if fields.get(role) is None:
            continue
        source = ImageSource.model_validate(fields[role])
        if source.data is not None:
            kept[role] = {"upload": _upload(services, caller, source.data, f"{pointer}/{role}")}
    return kept


def _upload(services: Services, caller: Caller, data: bytes, pointer: str) -> str:
    picture = keep_input(services, caller, prepare_bytes(services, caller, data, pointer), pointer)
    upload_id = new_id("upl")
    services.database.transact(
        lambda connection: insert_ready(connection, caller.tenant_id, upload_id, picture, life_seconds=KEPT_SECONDS)
    )
    return upload_id
