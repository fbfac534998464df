"""Images that stand in the lines of a batch as data: decoded and stored once each."""

import hashlib
from collections import OrderedDict
from dataclasses import dataclass, replace
from typing import Final

from common.domain.errors import Problem
from common.domain.job import InputRef
from common.images.untrusted import ImageRejected
from courier.pictures import store_picture
from courier.tools import Tools

_REMEMBERED: Final = 20_000


@dataclass(frozen=True, slots=True)
class Picture:
    """A stored input; `has_alpha` is None where only the store could tell."""

    reference: InputRef
    has_alpha: bool | None = None


class DataPictures:
    """The pictures of one tenant's data; what came a moment ago is not decoded again."""

    def __init__(self, tools: Tools, tenant_id: str) -> None:
        self._tools = tools
        self._tenant_id = tenant_id
        self._seen: OrderedDict[bytes, Picture | Problem] = OrderedDict()

    def take_in(self, data: bytes, pointer: str) -> Picture | Problem:
        """The picture, stored, or why it is none. Raises `StoreUnavailable`, `DecoderUnavailable`."""
        digest = hashlib.sha256(data).digest()
        found = self._seen.pop(digest, None) or self._decode(data)
        self._seen[digest] = found
        if len(self._seen) > _REMEMBERED:
            self._seen.popitem(last=False)
        return found if isinstance(found, Picture) else replace(found, pointer=pointer)

    def _decode(self, data: bytes) -> Picture | Problem:
        try:
            image = self._tools.decoder.decode(data)
        except ImageRejected as error:
            return Problem("", error.code, error.detail)
        return Picture(store_picture(self._tools, self._tenant_id, image), image.has_alpha)
