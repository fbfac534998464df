"""A manifest on this machine, JSON Lines or CSV: lines as the API has them, whose pictures may be files."""

import csv
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from client.folder.errors import FolderError

Line = dict[str, Any]

_ROLES: Final = ("image", "mask")
_DROPPED: Final = ("error",)
_WORDS: Final = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}


def _truth(text: str) -> bool:
    if text.lower() not in _WORDS:
        raise ValueError("true or false")
    return _WORDS[text.lower()]


_WHOLE: Final = (
    "seed",
    "num_inference_steps",
    "num_images",
    "width",
    "height",
    "mask_blur",
    "mask_grow",
    "inpaint_padding",
    "deadline_seconds",
    "expires_in_seconds",
)
_JSON: Final = ("output", "refiner", "adapters", "steps", "tags", "metadata")
_READERS: Final[Mapping[str, tuple[Callable[[str], Any], str]]] = {
    **dict.fromkeys(_WHOLE, (int, "a whole number")),
    **dict.fromkeys(("strength", "guidance_scale"), (float, "a number")),
    **dict.fromkeys(("preserve_unmasked", "previews", "deterministic"), (_truth, "true or false")),
    **dict.fromkeys(_JSON, (json.loads, "JSON")),
}


def read_manifest(path: Path, folder: Path | None) -> list[Line]:
    """The lines, in their order; a local picture is `{"file": <absolute path>}`, looked for in `folder` and beside the
    manifest. The member `error` of a `failed.jsonl` is left out.

    Raises `FolderError` that names the line which is wrong, or whose file is not there.
    """
    try:
        lines = list(_read_csv(path) if path.suffix.lower() == ".csv" else _read_jsonl(path))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise FolderError(f"{path} cannot be read: {error}", exit_code=2) from error
    places = [path.parent] if folder is None else [folder, path.parent]
    for number, line in lines:
        for role in _ROLES:
            if role in line:
                line[role] = _located(line[role], places, f"{path}, line {number}, {role}")
    return [line for _, line in lines]


def _read_jsonl(path: Path) -> Iterator[tuple[int, Line]]:
    with path.open(encoding="utf-8-sig", newline="\n") as file:
        for number, text in enumerate(file, start=1):
            if not text.strip():
                continue
            try:
                line = json.loads(text)
            except ValueError as error:
                raise FolderError(f"{path}, line {number} is not JSON: {error}", exit_code=2) from error
            if not isinstance(line, dict):
                raise FolderError(f"{path}, line {number} is no JSON object", exit_code=2)
            yield number, {name: value for name, value in line.items() if name not in _DROPPED}


def _read_csv(path: Path) -> Iterator[tuple[int, Line]]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file, strict=True)
        for row in reader:
            if None in row or None in row.values():
                raise FolderError(f"{path}, line {reader.line_num} has not as many cells as the header", exit_code=2)
            cells = {str(name).strip(): text.strip() for name, text in row.items()}
            where = f"{path}, line {reader.line_num}"
            yield (
                reader.line_num,
                {name: _convert(name, text, where) for name, text in cells.items() if text and name not in _DROPPED},
            )


def _convert(name: str, text: str, where: str) -> Any:
    read, meant = _READERS.get(name, (str, "text"))
    try:
        return read(text)
    except ValueError as error:
        raise FolderError(f"{where}: {name} must be {meant}, not {text!r}", exit_code=2) from error


def _located(source: Any, places: list[Path], where: str) -> Any:
    """A picture as the plan has it: what the API takes, or a local file, as an absolute path."""
    if isinstance(source, dict) and source.keys() == {"file"}:
        source = source["file"]
    if not isinstance(source, str):
        return source
    if source.startswith(("http://", "https://")):
        return {"url": source}
    for place in places:
        if (place / source).is_file():
            return {"file": str((place / source).resolve())}
    raise FolderError(f"{where}: there is no file {source}", exit_code=2)
