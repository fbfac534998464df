"""A folder as object store: the embedded implementation of the port."""

import errno
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from io import BytesIO
from pathlib import Path
from typing import BinaryIO, Final

from common.storage.keys import check_key, content_type_of
from common.storage.port import ObjectInfo, ObjectMissing, PresignedPut, StoreUnavailable

_PIECE_BYTES: Final = 1024 * 1024
_ABSENT: Final = (FileNotFoundError, NotADirectoryError, IsADirectoryError)
_FOLDER_TRIES: Final = 1000
_NO_HARD_LINKS: Final = (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK)


class LocalStore:
    """Objects as files below `root`, which is made when it is missing; the key is the path.

    The content type is that of the key's extension. A write is a temporary file (its name starts with a dot, which no
    key does) that is flushed to the disk and then renamed. One key cannot be a folder of another (`a` and `a/b`);
    that, and a symbolic link that leads out of the root, is refused with ValueError.
    """

    def __init__(self, root: Path) -> None:
        root.mkdir(parents=True, exist_ok=True)
        self._root = root.resolve()

    def put(self, key: str, data: bytes | BinaryIO, content_type: str, *, if_absent: bool = False) -> None:
        """See `ObjectStore`. The given type is not kept: the extension tells it."""
        path = self._path(key)
        source = BytesIO(data) if isinstance(data, bytes) else data
        with _translated(key):
            temporary = _write_beside(path, source)
            try:
                _publish(temporary, path, if_absent=if_absent)
            finally:
                temporary.unlink(missing_ok=True)
            _flush_folder(path.parent)

    def get(self, key: str) -> bytes:
        """See `ObjectStore`."""
        with _translated(key):
            return self._path(key).read_bytes()

    def stream(self, key: str) -> Iterator[bytes]:
        """See `ObjectStore`."""
        with _translated(key):
            file = self._path(key).open("rb")
        return _pieces(key, file)

    def head(self, key: str) -> ObjectInfo | None:
        """See `ObjectStore`."""
        path = self._path(key)
        try:
            with _translated(key):
                if path.is_dir():
                    return None
                return _describe(key, path.stat(), content_type_of(key))
        except ObjectMissing:
            return None

    def delete(self, key: str) -> None:
        """See `ObjectStore`. Folders that are empty afterwards go too."""
        path = self._path(key)
        with suppress(ObjectMissing), _translated(key):
            path.unlink()
            self._prune(path.parent)

    def list(self, prefix: str = "", *, after: str = "") -> Iterator[ObjectInfo]:
        """See `ObjectStore`."""
        with _translated(prefix):
            yield from _walk(self._root, "", prefix, after)

    def presign_get(
        self, key: str, *, expires_seconds: int, content_type: str, filename: str | None = None
    ) -> str | None:
        """None: a folder has no URLs."""
        return None

    def presign_put(
        self, key: str, *, content_type: str, size_bytes: int, sha256: str, expires_seconds: int
    ) -> PresignedPut | None:
        """None: a folder has no URLs."""
        return None

    def _path(self, key: str) -> Path:
        check_key(key)
        path = self._root / key
        with _translated(key):
            target = path.resolve()
        if not target.is_relative_to(self._root):
            raise ValueError(f"the key leads out of the store: {key!r}")
        return path

    def _prune(self, folder: Path) -> None:
        with suppress(OSError):
            while folder != self._root:
                folder.rmdir()
                folder = folder.parent


@contextmanager
def _translated(key: str) -> Iterator[None]:
    """OSErrors of the block as errors of the port."""
    try:
        yield
    except _ABSENT as error:
        raise ObjectMissing(key) from error
    except OSError as error:
        raise StoreUnavailable(key, f"the local store failed ({error.strerror})") from error


def _write_beside(path: Path, source: BinaryIO) -> Path:
    """Write `source` to a temporary file in the folder of `path` and flush it to the disk."""
    temporary = path.parent / f".{secrets.token_hex(8)}.part"
    source.seek(0)
    with _create(temporary) as file:
        try:
            shutil.copyfileobj(source, file, _PIECE_BYTES)
            file.flush()
            os.fsync(file.fileno())
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
    return temporary


def _create(path: Path) -> BinaryIO:
    """Open the new file `path`, making its folders. A delete may prune them in between, hence the tries."""
    for _ in range(_FOLDER_TRIES):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            return path.open("xb")
        except FileNotFoundError:
            continue
        except (FileExistsError, NotADirectoryError) as error:
            if any(folder.is_file() for folder in path.parents):
                raise ValueError(f"{path.parent.name} is an object and cannot be a folder too") from error
    raise OSError(errno.EAGAIN, "its folder vanishes again and again")


def _publish(temporary: Path, path: Path, *, if_absent: bool) -> None:
    """Give the finished file its name; with `if_absent` only when the name is free."""
    if path.is_dir():
        raise ValueError(f"{path.name} is a folder of other objects and cannot be one itself")
    if not if_absent:
        temporary.replace(path)
        return
    try:
        os.link(temporary, path)
    except FileExistsError:
        return
    except OSError as error:
        if error.errno not in _NO_HARD_LINKS:
            raise
        if not path.exists():  # Two writers may both get here; they bring the same bytes.
            temporary.replace(path)


def _flush_folder(folder: Path) -> None:
    """Make the new name itself survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _pieces(key: str, file: BinaryIO) -> Iterator[bytes]:
    with file, _translated(key):
        while piece := file.read(_PIECE_BYTES):
            yield piece


def _walk(folder: Path, key: str, prefix: str, after: str) -> Iterator[ObjectInfo]:
    """The objects below `folder`, whose own key is `key` (empty or with a final slash), in the order of their keys."""
    with suppress(FileNotFoundError):
        for name, entry in sorted(_entries(folder)):
            path_key = key + name
            if name.endswith("/"):
                related = path_key.startswith(prefix) or prefix.startswith(path_key)
                if related and (path_key > after or after.startswith(path_key)):
                    yield from _walk(Path(entry.path), path_key, prefix, after)
            elif path_key.startswith(prefix) and path_key > after:
                with suppress(FileNotFoundError):
                    yield _describe(path_key, entry.stat())


def _entries(folder: Path) -> Iterator[tuple[str, "os.DirEntry[str]"]]:
    """Names and entries; folders end in a slash, so that sorting names sorts keys (`a-b` before `a/b`)."""
    with os.scandir(folder) as entries:
        for entry in entries:
            if not entry.name.startswith(".") and not entry.is_symlink():
                yield (f"{entry.name}/" if entry.is_dir() else entry.name), entry


def _describe(key: str, status: os.stat_result, content_type: str | None = None) -> ObjectInfo:
    return ObjectInfo(key, status.st_size, datetime.fromtimestamp(status.st_mtime, UTC), content_type)
