"""Pictures on their way to the store."""

from common.db.objects import announce
from common.domain.job import InputRef
from common.images.untrusted import DecodedImage
from common.storage.keys import input_key
from courier.tools import Tools


def store_picture(tools: Tools, tenant_id: str, image: DecodedImage) -> InputRef:
    """The decoded image, stored. Unused, it goes after an hour. Raises `StoreUnavailable`."""
    key = input_key(tenant_id, image.sha256)
    reference = InputRef(key, image.sha256, len(image.png), image.width, image.height)
    tools.database.transact(lambda connection: announce(connection, tenant_id, reference))
    tools.store.put(key, image.png, "image/png", if_absent=True)
    return reference
