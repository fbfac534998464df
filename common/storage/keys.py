"""The names of objects, and the rules that all names obey. Pure functions."""

import re
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Final, Literal

MAX_KEY_BYTES: Final = 900
MAX_SEGMENT_BYTES: Final = 200

_ID: Final = re.compile(r"[a-z0-9_-]{1,128}")
_SHA256: Final = re.compile(r"[0-9a-f]{64}")
_EXTENSION: Final = re.compile(r"[a-z0-9]{1,16}")
_FORBIDDEN: Final = re.compile(r"[\x00-\x1f\x7f\\]")

_KINDS: Final = {
    "inputs": "input",
    "manifests": "manifest",
    "results": "result",
    "steps": "step",
    "uploads": "upload",
}
_CONTENT_TYPES: Final = {
    ".jpg": "image/jpeg",
    ".json": "application/json",
    ".jsonl": "application/jsonl",
    ".png": "image/png",
    ".txt": "text/plain; charset=utf-8",
    ".webp": "image/webp",
    ".zip": "application/zip",
}


def input_key(tenant_id: str, sha256: str) -> str:
    """An input image in our own encoding; the same picture of one tenant has one key."""
    return f"inputs/{_checked_id(tenant_id)}/{_checked_sha256(sha256)}.png"


def result_key(
    tenant_id: str, job_id: str, fence: int, index: int | Literal["grid"], sha256: str, extension: str
) -> str:
    """An output image of one attempt. The fence keeps a superseded attempt from overwriting the winner's."""
    return f"{_attempt('results', tenant_id, job_id, fence)}/{_numbered(index, sha256, extension)}"


def step_key(tenant_id: str, job_id: str, fence: int, step: int, sha256: str, extension: str) -> str:
    """What one finished step of a chain hands to the next."""
    return f"{_attempt('steps', tenant_id, job_id, fence)}/{_numbered(step, sha256, extension)}"


def upload_key(tenant_id: str, upload_id: str) -> str:
    """The bytes of a presigned upload as the client sent them, until they are decoded."""
    return f"uploads/{_checked_id(tenant_id)}/{_checked_id(upload_id)}"


def manifest_key(tenant_id: str, batch_id: str) -> str:
    """The manifest of a batch, JSON Lines."""
    return f"manifests/{_checked_id(tenant_id)}/{_checked_id(batch_id)}.jsonl"


@dataclass(frozen=True, slots=True)
class KeyParts:
    """What a key says of its object: `kind` is `input`, `manifest`, `result`, `step` or `upload`."""

    key: str
    kind: str
    tenant_id: str
    job_id: str | None = None


def parse_key(key: str) -> KeyParts | None:
    """What this key says, or None when none of the functions above made it."""
    folder, _, rest = key.partition("/")
    if folder not in _KINDS:
        return None
    tenant_id, _, rest = rest.partition("/")
    name, _, below = rest.partition("/")
    return KeyParts(key, _KINDS[folder], tenant_id, name if below else None) if tenant_id and name else None


def content_type_of(key: str) -> str:
    """The content type that the extension of `key` stands for, `application/octet-stream` for an unknown one."""
    return _CONTENT_TYPES.get(PurePosixPath(key).suffix, "application/octet-stream")


def check_key(key: str) -> None:
    """Raise ValueError unless every store can hold `key`.

    A key is 1 to 900 bytes of UTF-8: segments of 1 to 200 bytes between single slashes, none of which starts with a
    dot (so never `..`), without control characters and backslashes.
    """
    if not 1 <= len(_utf8(key)) <= MAX_KEY_BYTES:
        raise ValueError(f"a key has 1 to {MAX_KEY_BYTES} bytes: {key!r}")
    if _FORBIDDEN.search(key):
        raise ValueError(f"a key has no control character and no backslash: {key!r}")
    for segment in key.split("/"):
        if not segment or segment.startswith(".") or len(_utf8(segment)) > MAX_SEGMENT_BYTES:
            raise ValueError(
                f"between the slashes of a key are 1 to {MAX_SEGMENT_BYTES} bytes that start with no dot: {key!r}"
            )


def _utf8(text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"a key is valid Unicode: {text!r}") from error


def _attempt(kind: str, tenant_id: str, job_id: str, fence: int) -> str:
    return f"{kind}/{_checked_id(tenant_id)}/{_checked_id(job_id)}/{_checked_number(fence)}"


def _numbered(number: int | Literal["grid"], sha256: str, extension: str) -> str:
    if not _EXTENSION.fullmatch(extension):
        raise ValueError(f"an extension is 1 to 16 of a-z and 0-9, without a dot: {extension!r}")
    name = number if number == "grid" else _checked_number(number)
    return f"{name}-{_checked_sha256(sha256)[:16]}.{extension}"


def _checked_id(value: str) -> str:
    if not _ID.fullmatch(value):
        raise ValueError(f"an id in a key is 1 to 128 of a-z, 0-9, _ and -: {value!r}")
    return value


def _checked_sha256(value: str) -> str:
    if not _SHA256.fullmatch(value):
        raise ValueError(f"a SHA-256 in a key is 64 lower-case hexadecimal digits: {value!r}")
    return value


def _checked_number(value: int) -> int:
    if value < 0:
        raise ValueError(f"a number in a key is not negative: {value}")
    return value
