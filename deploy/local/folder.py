"""The data folder of `darkroom up`, which one stack at a time may use."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

LOCK_NAME = "up.lock"
LOGS_NAME = "logs"


class FolderInUse(Exception):
    """Another stack uses this folder; the text names its process."""


@contextmanager
def taken_folder(folder: Path) -> Iterator[Path]:
    """The folder, made if need be, and ours alone within the block; the lock goes with the process, however it ends.

    Raises `FolderInUse`, or OSError when the folder cannot be made.
    """
    (folder / LOGS_NAME).mkdir(parents=True, exist_ok=True)
    with (folder / LOCK_NAME).open("a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            owner = lock.read().strip()
            raise FolderInUse(f"another `darkroom up` (process {owner}) uses {folder}") from None
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        yield folder
