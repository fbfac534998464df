"""Uploads: the body of a presign, and an upload as clients see it."""

from typing import Annotated, Final, Literal

from pydantic import Field

from api.schemas.job import Answer
from common.requests.base import Strict

CONTENT_TYPES: Final = ("image/png", "image/jpeg", "image/webp")

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class PresignRequest(Strict):
    """What the file will be; another one is refused when the upload is completed."""

    bytes: int = Field(ge=1, description="Size of the file; at most the limit of images.")
    sha256: Sha256 = Field(description="SHA-256 of the file, 64 lower-case hexadecimal digits.")
    content_type: Literal["image/png", "image/jpeg", "image/webp"] = Field(description="Type of the file.")


class UploadUrls(Answer):
    """Where to go from here."""

    self: str
    complete: str | None


class Put(Answer):
    """One PUT of the file to `url` with these `headers`, until `expires_at`.

    A `url` of this service wants the same `Authorization` as every other; one of an object store wants none.
    """

    url: str
    method: Literal["PUT"]
    headers: dict[str, str]
    expires_at: str


class Upload(Answer):
    """An image sent ahead. Sizes and `sha256` are those of our own PNG of it; null until it is ready."""

    id: str
    status: Literal["pending", "ready", "rejected"]
    width: int | None
    height: int | None
    bytes: int | None
    sha256: str | None
    created_at: str
    expires_at: str
    urls: UploadUrls


class PresignedUpload(Upload):
    """An upload whose file is awaited."""

    put: Put
