"""The object store as the rest of the product sees it.

StoreError
├── ObjectMissing       there is no object of this key (any more); trying again does not help
└── StoreUnavailable    the store cannot right now: timeout, 5xx, no connection, disk full; try again
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import BinaryIO, Protocol


class StoreError(Exception):
    """Base of what an object store raises. `key` is the object (or prefix) that was asked for."""

    def __init__(self, key: str, detail: str) -> None:
        super().__init__(f"{detail}: {key}")
        self.key = key


class ObjectMissing(StoreError):
    """There is no object of this key."""

    def __init__(self, key: str) -> None:
        super().__init__(key, "no such object")


class StoreUnavailable(StoreError):
    """The store did not do it, and the same call may succeed later."""


@dataclass(frozen=True, slots=True)
class ObjectInfo:
    """One object: its length, when it was last written (UTC), and its type, which listings leave None."""

    key: str
    size_bytes: int
    modified_at: datetime
    content_type: str | None = None


@dataclass(frozen=True, slots=True)
class PresignedPut:
    """A client uploads with one PUT to `url` that carries exactly these `headers`."""

    url: str
    headers: Mapping[str, str]


class ObjectStore(Protocol):
    """Bytes by key. Safe for use by many threads.

    Keys obey `keys.check_key`, else every method raises ValueError. Writes are atomic: a reader sees the old object
    or the new one, whole. Every method may raise `StoreUnavailable`.
    """

    def put(self, key: str, data: bytes | BinaryIO, content_type: str, *, if_absent: bool = False) -> None:
        """Store `data`: bytes, or a seekable file, which is read from its start.

        An existing object is replaced. With `if_absent` it is left as it is and the call succeeds; a store that
        cannot tell replaces it, so this is for content that is the same whoever writes it.
        """

    def get(self, key: str) -> bytes:
        """The whole object. Raises `ObjectMissing`."""

    def stream(self, key: str) -> Iterator[bytes]:
        """The object in pieces of at most 1 MiB. Raises `ObjectMissing` now, not at the first piece."""

    def head(self, key: str) -> ObjectInfo | None:
        """What is known of the object, or None when there is none."""

    def delete(self, key: str) -> None:
        """Remove the object. That there is none is no error."""

    def list(self, prefix: str = "", *, after: str = "") -> Iterator[ObjectInfo]:
        """The objects whose keys start with `prefix` and sort behind `after`, in the order of their UTF-8 bytes."""

    def presign_get(
        self, key: str, *, expires_seconds: int, content_type: str, filename: str | None = None
    ) -> str | None:
        """A URL that anybody may GET for a while, answered with `content_type`, and as a download when a `filename`
        is given. None: this store cannot, serve the bytes yourself. Does not check that the object is there.
        """

    def presign_put(
        self, key: str, *, content_type: str, size_bytes: int, sha256: str, expires_seconds: int
    ) -> PresignedPut | None:
        """A URL to which anybody may PUT exactly the declared bytes for a while, or None: this store cannot.

        The store refuses other content when it checks `x-amz-checksum-sha256`; not all do, so verify afterwards.
        """
