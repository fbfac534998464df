"""The pictures in a folder, and the mask of each."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from client.folder.errors import FolderError
from client.folder.names import PICTURES

_SHOWN = 3


@dataclass(frozen=True, slots=True)
class Found:
    """Relative paths of the pictures, sorted; and how many other files there are."""

    pictures: list[str]
    others: int


def find_pictures(folder: Path, *, recursive: bool, without: Path) -> Found:
    """The PNG, JPEG and WebP files by their names, not the hidden ones and nothing in the folder `without`.

    Raises `FolderError` for a folder that cannot be read.
    """
    pictures: list[str] = []
    others = 0
    for path in _files(folder, recursive, without.resolve()):
        if path.suffix.lower() in PICTURES:
            pictures.append(path.relative_to(folder).as_posix())
        else:
            others += 1
    return Found(sorted(pictures), others)


def find_masks(pictures: list[str], folder: Path, *, without: Path) -> list[Path]:
    """The mask of each picture: the file of the same relative name, whichever its ending.

    Raises `FolderError` that names the pictures without one.
    """
    by_stem: dict[str, str] = {}
    whole = find_pictures(folder, recursive=True, without=without).pictures
    for mask in whole:
        by_stem.setdefault(_stem(mask), mask)
    names = frozenset(whole)
    found = [picture if picture in names else by_stem.get(_stem(picture)) for picture in pictures]
    missing = [picture for picture, mask in zip(pictures, found, strict=True) if mask is None]
    if missing:
        shown = ", ".join(missing[:_SHOWN]) + (", …" if len(missing) > _SHOWN else "")
        raise FolderError(f"{len(missing)} of {len(pictures)} pictures have no mask in {folder}: {shown}", exit_code=2)
    return [folder / mask for mask in found if mask is not None]


def _files(folder: Path, recursive: bool, without: Path) -> Iterator[Path]:
    def refuse(error: OSError) -> None:
        raise FolderError(f"{error.filename} cannot be read: {error.strerror or error}")

    for place, folders, files in os.walk(folder, onerror=refuse):
        here = Path(place)
        folders[:] = [
            name for name in folders if recursive and not name.startswith(".") and (here / name).resolve() != without
        ]
        yield from (here / name for name in files if not name.startswith("."))


def _stem(path: str) -> str:
    return str(PurePosixPath(path).with_suffix(""))
