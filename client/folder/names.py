"""What lines and results are called. Pure."""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import PurePosixPath
from typing import Final

from common.domain.batch import MOST_CUSTOM_ID

PICTURES: Final = frozenset({".png", ".jpg", ".jpeg", ".webp"})
ENDINGS: Final = {"image/png": ".png", "image/jpeg": ".jpg", "image/webp": ".webp"}

_UNSAFE: Final = re.compile(r'[\x00-\x1f\x7f<>:"|?*\ud800-\udfff]')
_SEPARATOR: Final = re.compile(r"[/\\]")
_MOST_IMAGES: Final = 16
_LONGEST_PART: Final = 200  # of the 255 bytes that file systems take


def choose_custom_ids(names: Iterable[str]) -> list[str]:
    """An id for each name, the name itself where it is short enough and not taken by one before."""
    taken: set[str] = set()
    chosen: list[str] = []
    for name in names:
        base = name.encode("utf-8", "replace").decode()[-(MOST_CUSTOM_ID - 10) :]
        found, number = base, 1
        while found in taken:
            number += 1
            found = f"{base}#{number}"
        taken.add(found)
        chosen.append(found)
    return chosen


def choose_stems(custom_ids: Sequence[str], counts: Sequence[int] | None = None) -> list[str]:
    """For each id the relative path of its result, without the ending; no two are equal, whatever the case.

    `a.jpg` gives `a`; where `a.png` is there too, both keep their ending. `counts` are pictures per result, one each
    unless given: none of the files that `name_files` names for one result has the name of another's.
    """
    counts = counts or [1] * len(custom_ids)
    plain = [_safe_path(one) for one in custom_ids]
    bare = [_without_ending(one) for one in plain]
    often = Counter(one.casefold() for one in bare)
    taken: set[str] = set()
    stems: list[str] = []
    for whole, short, count in zip(plain, bare, counts, strict=True):
        base = short if often[short.casefold()] == 1 else whole
        found, number = base, 1
        while not taken.isdisjoint(names := _names(found, count)):
            number += 1
            found = f"{base}~{number}"
        taken |= names
        stems.append(found)
    return stems


def name_files(stem: str, endings: Sequence[str]) -> list[str]:
    """The file of each picture of one result: `name.png`, or `name-0.png`, `name-1.png` where there are more."""
    if len(endings) == 1:
        return [f"{stem}{endings[0]}"]
    return [f"{stem}-{index}{ending}" for index, ending in enumerate(endings)]


def _names(stem: str, count: int) -> set[str]:
    """What a result takes: its own name, and those of its files without their endings."""
    files = name_files(stem, [""] * min(max(count, 1), _MOST_IMAGES))
    return {name.casefold() for name in (stem, *files)}


def _safe_path(custom_id: str) -> str:
    """A relative path below the folder, whatever the id is."""
    parts = [_safe_part(part) for part in _SEPARATOR.split(custom_id) if part not in ("", ".")]
    return "/".join(parts) or "_"


def _safe_part(part: str) -> str:
    text = _UNSAFE.sub("_", part).rstrip(". ")
    text = f"_{text[1:]}" if text.startswith(".") else text
    return text.encode()[-_LONGEST_PART:].decode("utf-8", "ignore") or "_"


def _without_ending(path: str) -> str:
    found = PurePosixPath(path)
    return path[: -len(found.suffix)] if found.suffix.lower() in PICTURES else path
