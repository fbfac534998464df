"""A file to which one line is added for everything that must not be forgotten, and which any end of a process leaves
readable.
"""

import json
import os
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any


class Journal:
    """Lines of JSON in a file, which need not exist. Safe to share between threads."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()

    def read(self) -> Iterator[dict[str, Any]]:
        """Every whole line; what a killed process left of the last one is cut off."""
        if not self._path.exists():
            return
        with self._path.open("r+b") as file:
            end = 0
            for line in file:
                if not line.endswith(b"\n"):
                    file.truncate(end)
                    return
                end += len(line)
                yield json.loads(line)

    def append(self, line: dict[str, Any], *, durably: bool = False) -> None:
        """Add a line; `durably`: it is on the disk when this returns. Raises OSError."""
        with self._lock, self._path.open("ab") as file:
            file.write(json.dumps(line).encode() + b"\n")
            file.flush()
            if durably:
                os.fsync(file.fileno())


def write_whole(path: Path, lines: Iterable[dict[str, Any]]) -> None:
    """Put these lines in place of the file, all of them or none. Raises OSError."""
    unfinished = path.with_name(f"{path.name}.new")
    with unfinished.open("wb") as file:
        for line in lines:
            file.write(json.dumps(line).encode() + b"\n")
        file.flush()
        os.fsync(file.fileno())
    os.replace(unfinished, path)
