"""Any S3-compatible store, through boto3, which is loaded by the first `S3Store` and not by importing this."""

import base64
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC
from typing import Any, BinaryIO, Final, Literal

from common.storage.keys import check_key
from common.storage.port import ObjectInfo, ObjectMissing, PresignedPut, StoreUnavailable

AddressingStyle = Literal["auto", "path", "virtual"]

CONNECT_SECONDS: Final = 5
READ_SECONDS: Final = 30
MAX_ATTEMPTS: Final = 3

_PIECE_BYTES: Final = 1024 * 1024
_CONFLICT_TRIES: Final = 3


@dataclass(frozen=True, slots=True)
class S3Location:
    """A bucket, a prefix in it, and how to reach it.

    `endpoint` None is AWS. `public_endpoint` is where clients reach the same store; it is only used for the URLs they
    are given. Without keys, boto3 looks where it always does (environment, profile, instance role).
    """

    bucket: str
    prefix: str = ""
    endpoint: str | None = None
    public_endpoint: str | None = None
    region: str = "us-east-1"
    style: AddressingStyle = "auto"
    access_key: str | None = None
    secret_key: str | None = field(default=None, repr=False)


class S3Store:
    """Objects of one bucket below one prefix. The bucket must exist (`ensure_bucket` makes it).

    Waits at most 5 s for a connection and 30 s for an answer, and tries three times. Relies on little: PUT, GET,
    HEAD, DELETE, ListObjectsV2, presigned GET and PUT; on `If-None-Match: *` only where the store knows it.
    """

    def __init__(self, location: S3Location) -> None:
        self._bucket = location.bucket
        self._prefix = f"{location.prefix}/" if location.prefix else ""
        self._region = location.region
        self._client = _client(location, location.endpoint)
        is_split = location.public_endpoint not in (None, location.endpoint)
        self._public_client = _client(location, location.public_endpoint) if is_split else self._client
        self._knows_if_none_match = True

    def put(self, key: str, data: bytes | BinaryIO, content_type: str, *, if_absent: bool = False) -> None:
        """See `ObjectStore`."""
        request = self._address(key) | {"Body": data, "ContentType": content_type}
        with _translated(key):
            if not (if_absent and self._put_if_absent(request)):
                _rewind(data)
                self._client.put_object(**request)

    def get(self, key: str) -> bytes:
        """See `ObjectStore`."""
        with _translated(key):
            body = self._client.get_object(**self._address(key))["Body"]
            content: bytes = body.read()
            return content

    def stream(self, key: str) -> Iterator[bytes]:
        """See `ObjectStore`."""
        with _translated(key):
            body = self._client.get_object(**self._address(key))["Body"]
        return _pieces(key, body)

    def head(self, key: str) -> ObjectInfo | None:
        """See `ObjectStore`."""
        try:
            with _translated(key):
                answer = self._client.head_object(**self._address(key))
        except ObjectMissing:
            return None
        modified_at = answer["LastModified"].astimezone(UTC)
        return ObjectInfo(key, answer["ContentLength"], modified_at, answer.get("ContentType"))

    def delete(self, key: str) -> None:
        """See `ObjectStore`."""
        try:
            with _translated(key):
                self._client.delete_object(**self._address(key))
        except ObjectMissing:  # Most stores answer 204 either way.
            return

    def list(self, prefix: str = "", *, after: str = "") -> Iterator[ObjectInfo]:
        """See `ObjectStore`."""
        request = {"Bucket": self._bucket, "Prefix": self._prefix + prefix}
        if after:
            request["StartAfter"] = self._prefix + after
        with _translated(prefix):
            for page in self._client.get_paginator("list_objects_v2").paginate(**request):
                for item in page.get("Contents", ()):
                    yield self._describe(item)

    def presign_get(
        self, key: str, *, expires_seconds: int, content_type: str, filename: str | None = None
    ) -> str | None:
        """See `ObjectStore`. Makes no request."""
        parameters = self._address(key) | {"ResponseContentType": content_type}
        if filename is not None:
            parameters["ResponseContentDisposition"] = f'attachment; filename="{_plain(filename)}"'
        return self._presign(key, "get_object", parameters, expires_seconds)

    def presign_put(
        self, key: str, *, content_type: str, size_bytes: int, sha256: str, expires_seconds: int
    ) -> PresignedPut | None:
        """See `ObjectStore`. Makes no request. Type, length and SHA-256 are part of what is signed."""
        checksum = base64.b64encode(bytes.fromhex(sha256)).decode()
        declared = {"ContentType": content_type, "ContentLength": size_bytes, "ChecksumSHA256": checksum}
        url = self._presign(key, "put_object", self._address(key) | declared, expires_seconds)
        headers = {
            "Content-Type": content_type,
            "Content-Length": str(size_bytes),
            "x-amz-checksum-sha256": checksum,
        }
        return PresignedPut(url, headers)

    def ensure_bucket(self) -> None:
        """Make the bucket unless it is there. For tests and for stores that we start ourselves."""
        from botocore.exceptions import ClientError

        request: dict[str, Any] = {"Bucket": self._bucket}
        if self._region != "us-east-1":
            request["CreateBucketConfiguration"] = {"LocationConstraint": self._region}
        with _translated(self._bucket):
            try:
                self._client.create_bucket(**request)
            except ClientError as error:
                if _code(error) not in ("BucketAlreadyOwnedByYou", "BucketAlreadyExists"):
                    raise

    def _address(self, key: str) -> dict[str, Any]:
        check_key(key)
        return {"Bucket": self._bucket, "Key": self._prefix + key}

    def _describe(self, item: dict[str, Any]) -> ObjectInfo:
        """One line of a listing."""
        return ObjectInfo(item["Key"].removeprefix(self._prefix), item["Size"], item["LastModified"].astimezone(UTC))

    def _presign(self, key: str, operation: str, parameters: dict[str, Any], expires_seconds: int) -> str:
        with _translated(key):
            url: str = self._public_client.generate_presigned_url(
                operation, Params=parameters, ExpiresIn=expires_seconds
            )
        return url

    def _put_if_absent(self, request: dict[str, Any]) -> bool:
        """True when the object is there now, False when the store does not know the condition."""
        from botocore.exceptions import ClientError

        for _ in range(_CONFLICT_TRIES if self._knows_if_none_match else 0):
            _rewind(request["Body"])
            try:
                self._client.put_object(**request, IfNoneMatch="*")
            except ClientError as error:
                status = _status(error)
                if status == 412:
                    return True
                if status == 501:
                    self._knows_if_none_match = False
                    return False
                if status != 409:  # 409: another writer is at it.
                    raise
            else:
                return True
        return False


def _client(location: S3Location, endpoint: str | None) -> Any:
    import boto3.session
    from botocore.config import Config

    config = Config(
        signature_version="s3v4",
        connect_timeout=CONNECT_SECONDS,
        read_timeout=READ_SECONDS,
        retries={"mode": "standard", "total_max_attempts": MAX_ATTEMPTS},
        max_pool_connections=32,
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
        s3={"addressing_style": location.style},
    )
    return boto3.session.Session().client(
        "s3",
        endpoint_url=endpoint,
        region_name=location.region,
        aws_access_key_id=location.access_key,
        aws_secret_access_key=location.secret_key,
        config=config,
    )


@contextmanager
def _translated(key: str) -> Iterator[None]:
    """Errors of botocore as errors of the port: 404 is `ObjectMissing`, everything else `StoreUnavailable`.

    A wrong key or a missing bucket is the latter too: the operator mends it, and the jobs are not to blame.
    """
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        yield
    except ClientError as error:
        if _status(error) == 404 and _code(error) != "NoSuchBucket":
            raise ObjectMissing(key) from error
        raise StoreUnavailable(key, f"the store answered {_status(error)} {_code(error)}") from error
    except BotoCoreError as error:
        raise StoreUnavailable(key, f"the store did not answer ({type(error).__name__})") from error


def _status(error: Any) -> int:
    return int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))


def _code(error: Any) -> str:
    return str(error.response.get("Error", {}).get("Code", ""))


def _rewind(body: bytes | BinaryIO) -> None:
    if not isinstance(body, bytes):
        body.seek(0)


def _pieces(key: str, body: Any) -> Iterator[bytes]:
    with body, _translated(key):
        while piece := body.read(_PIECE_BYTES):
            yield piece


def _plain(filename: str) -> str:
    """A file name that needs no quoting in a header (RFC 6266)."""
    return re.sub(r"[^A-Za-z0-9._-]", "_", filename)
