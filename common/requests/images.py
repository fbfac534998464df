"""An input image as JSON names it."""

import binascii
from base64 import b64decode
from typing import Annotated, Any, Final

from pydantic import AfterValidator, BeforeValidator, Field, WithJsonSchema, model_validator
from pydantic_core import PydanticCustomError

from common.ids import is_id
from common.requests.base import Strict, check_text

MAX_DATA_BYTES: Final = 10 << 20
MAX_URL_CHARACTERS: Final = 2000
MAX_INDEX: Final = 159

RESULT_SCHEME: Final = "darkroom:"
"""How an awaited image is named that is the result of an earlier job: no URL of any client begins so."""

_WAYS: Final = ("data", "upload", "url", "job")
_ONE_OF: Final = "must have exactly one of data, upload, url, or job (with its index)"


def decode_data_url(value: Any) -> bytes:
    """The bytes of a base64 data URL; the media type it claims is not believed, the bytes are looked at later."""
    head, comma, payload = value.partition(",") if isinstance(value, str) else ("", "", "")
    if not comma or not head.startswith("data:image/") or not head.endswith(";base64"):
        raise PydanticCustomError("image_unreadable", "must be a data URL: data:image/png;base64,… (or jpeg, webp)")
    if len(payload) > (MAX_DATA_BYTES + 2) // 3 * 4:
        raise PydanticCustomError(
            "image_too_large", "holds more than 10 MiB; send larger images as an upload or a multipart file part"
        )
    try:
        return b64decode(payload, validate=True)
    except (binascii.Error, ValueError):
        raise PydanticCustomError("image_unreadable", "is not valid base64 (no line breaks, padded with =)") from None


def check_upload_id(text: str) -> str:
    """Refuse what cannot be the id of an upload."""
    if not is_id(text, "upl"):
        raise PydanticCustomError("validation_error", "must be the id of an upload, upl_ and 32 hexadecimal digits")
    return text


def check_job_id(text: str) -> str:
    """Refuse what cannot be the id of a job."""
    if not is_id(text, "job"):
        raise PydanticCustomError("validation_error", "must be the id of a job, job_ and 32 hexadecimal digits")
    return text


def result_url(job_id: str, index: int) -> str:
    """What an intake holds in place of a URL for image `index` of this job; `source_of` reads it back."""
    return f"{RESULT_SCHEME}{job_id}/{index}"


DataUrl = Annotated[
    bytes,
    BeforeValidator(decode_data_url),
    WithJsonSchema({"type": "string", "pattern": "^data:image/[a-z]+;base64,", "maxLength": 13_981_040}),
]
UploadId = Annotated[
    str, AfterValidator(check_upload_id), WithJsonSchema({"type": "string", "pattern": "^upl_[0-9a-f]{32}$"})
]
JobId = Annotated[
    str, AfterValidator(check_job_id), WithJsonSchema({"type": "string", "pattern": "^job_[0-9a-f]{32}$"})
]
# Where it leads is judged by `common.outbound`, scheme and port included: one place decides.
Url = Annotated[
    str,
    Field(min_length=1, max_length=MAX_URL_CHARACTERS),
    AfterValidator(check_text),
    WithJsonSchema(
        {
            "type": "string",
            "format": "uri",
            "pattern": "^https?://",
            "minLength": 1,
            "maxLength": MAX_URL_CHARACTERS,
        }
    ),
]


class ImageSource(Strict):
    """Where an input image comes from: exactly one of `data`, `upload`, `url` and `job`."""

    data: DataUrl | None = Field(None, description="`data:image/png;base64,…`, at most 10 MiB of PNG, JPEG or WebP.")
    upload: UploadId | None = Field(None, description="The id of an upload that is ready.")
    url: Url | None = Field(
        None, description="A public https address of a PNG, JPEG or WebP file; fetched after the job is accepted."
    )
    job: JobId | None = Field(None, description="The id of an earlier job that succeeded; its image `index` is taken.")
    index: int | None = Field(None, ge=0, le=MAX_INDEX, description="With `job`: which of its images. Default: 0.")

    @model_validator(mode="after")
    def _check_one_way(self) -> "ImageSource":
        given = [name for name in _WAYS if getattr(self, name) is not None]
        if len(given) != 1:
            detail = f"not {' and '.join(given)}" if given else "it has none"
            raise PydanticCustomError("validation_error", f"{_ONE_OF}, {detail}")
        if self.index is not None and self.job is None:
            raise PydanticCustomError("validation_error", "has an index without a job; an index is for job only")
        return self


def source_of(url: str) -> ImageSource:
    """The source that an intake's URL stands for: a result of an earlier job, or an address on the net."""
    if not url.startswith(RESULT_SCHEME):
        return ImageSource(url=url)
    job_id, _, index = url.removeprefix(RESULT_SCHEME).partition("/")
    return ImageSource(job=job_id, index=int(index))
