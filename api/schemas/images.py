"""An input image as JSON carries it."""

import binascii
from base64 import b64decode
from typing import Annotated, Any, Final

from pydantic import BeforeValidator, Field, WithJsonSchema
from pydantic_core import PydanticCustomError

from api.schemas.base import Strict

MAX_DATA_BYTES: Final = 10 << 20


def decode_data_url(value: Any) -> bytes:
    """The bytes of a base64 data URL; the media type it claims is not believed, the bytes are looked at later."""
    head, comma, payload = value.partition(",") if isinstance(value, str) else ("", "", "")
    if not comma or not head.startswith("data:image/") or not head.endswith(";base64"):
        raise PydanticCustomError("image_unreadable", "must be a data URL: data:image/png;base64,… (or jpeg, webp)")
    if len(payload) > (MAX_DATA_BYTES + 2) // 3 * 4:
        raise PydanticCustomError(
            "image_too_large", "holds more than 10 MiB; send larger images as a multipart file part"
        )
    try:
        return b64decode(payload, validate=True)
    except (binascii.Error, ValueError):
        raise PydanticCustomError("image_unreadable", "is not valid base64 (no line breaks, padded with =)") from None


DataUrl = Annotated[
    bytes,
    BeforeValidator(decode_data_url),
    WithJsonSchema({"type": "string", "pattern": "^data:image/[a-z]+;base64,", "maxLength": 13_981_040}),
]


class ImageSource(Strict):
    """Where an input image comes from: a base64 data URL of a PNG, JPEG or WebP file, at most 10 MiB."""

    data: DataUrl = Field(description="`data:image/png;base64,…`, at most 10 MiB of PNG, JPEG or WebP.")
