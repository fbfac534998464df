"""What a run is to do: one entry per result, fixed before anything is sent."""

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from client.folder.errors import FolderError
from client.folder.manifests import read_manifest
from client.folder.names import choose_custom_ids, choose_stems
from client.folder.pictures import find_masks, find_pictures
from common.domain.batch import MOST_LINES

ROLES: Final = ("image", "mask")


@dataclass(frozen=True, slots=True)
class FolderOptions:
    """What the command was asked for. `defaults` are fields of a job, None is what was not said."""

    out: Path
    server: str
    folder: Path | None = None
    mask_dir: Path | None = None
    manifest: Path | None = None
    defaults: Mapping[str, Any] | None = None
    name: str | None = None
    priority: str | None = None
    on_invalid: str | None = None
    recursive: bool | None = None
    resume: bool = False
    overwrite: bool = False
    wait: bool = True
    concurrency: int = 8


@dataclass(frozen=True, slots=True)
class Settings:
    """What makes a run this run: a resumed one must not differ in what is said again."""

    server: str
    folder: str | None
    mask_dir: str | None
    manifest: str | None
    manifest_sha256: str | None
    defaults: dict[str, Any]
    name: str | None
    priority: str | None
    on_invalid: str | None
    recursive: bool | None

    def differences(self, said: "Settings") -> list[str]:
        """The names of what was said again, and otherwise."""
        before, now = asdict(self), asdict(said)
        return [name for name, value in now.items() if value not in (None, {}) and value != before[name]]


@dataclass(frozen=True, slots=True)
class Entry:
    """One line: its id, the relative path of its result without the ending, and its fields.

    `image` and `mask` are what the API takes, or `{"file": <absolute path>}`; None where there is none. One that was
    given as null, to have none in spite of the defaults, is among the fields.
    """

    custom_id: str
    stem: str
    fields: dict[str, Any]
    image: dict[str, Any] | None = None
    mask: dict[str, Any] | None = None

    @property
    def files(self) -> dict[str, str]:
        """The local files by role."""
        sources = {"image": self.image, "mask": self.mask}
        return {role: source["file"] for role, source in sources.items() if source is not None and "file" in source}

    def as_line(self, uploads: Mapping[str, str]) -> dict[str, Any]:
        """The line of the manifest; `uploads` are ids by path, of all its files."""
        line: dict[str, Any] = {"custom_id": self.custom_id, **self.fields}
        for role, source in (("image", self.image), ("mask", self.mask)):
            if source is not None:
                line[role] = {"upload": uploads[source["file"]]} if "file" in source else source
        return line


@dataclass(frozen=True, slots=True)
class Plan:
    """All entries of a run, in the order of its manifest."""

    settings: Settings
    entries: list[Entry]
    others: int = 0


def read_settings(options: FolderOptions) -> Settings:
    """The settings of the options. Raises `FolderError` when the manifest cannot be read."""
    return Settings(
        server=options.server,
        folder=_absolute(options.folder),
        mask_dir=_absolute(options.mask_dir),
        manifest=_absolute(options.manifest),
        manifest_sha256=None if options.manifest is None else _digest(options.manifest),
        defaults=dict(options.defaults or {}),
        name=options.name,
        priority=options.priority,
        on_invalid=options.on_invalid,
        recursive=options.recursive,
    )


def require_source(options: FolderOptions) -> None:
    """Raise `FolderError` for options that do not say what to do, before anything is touched."""
    if options.folder is None and options.manifest is None:
        raise FolderError("give a FOLDER of pictures, or a --manifest", exit_code=2)
    if options.manifest is not None and options.mask_dir is not None:
        raise FolderError("--mask-dir goes with a FOLDER; in a manifest each line names its mask", exit_code=2)
    if options.folder is not None and options.out.resolve() == options.folder.resolve():
        raise FolderError("--out is the FOLDER itself: give another one, or results mix with pictures", exit_code=2)


def make_plan(options: FolderOptions) -> Plan:
    """The plan of a new run. Raises `FolderError` for what cannot be done as a whole; nothing has been sent then."""
    lines, others = _lines_of_manifest(options) if options.manifest else _lines_of_folder(options)
    if not lines:
        raise FolderError(f"there are no pictures in {options.manifest or options.folder}", exit_code=2)
    if len(lines) > MOST_LINES:
        raise FolderError(
            f"{len(lines):,} pictures are more than the {MOST_LINES:,} of one batch: split them over several folders "
            "or manifests, each with an --out of its own",
            exit_code=2,
        )
    settings = read_settings(options)
    _refuse_grids([settings.defaults, *lines])
    custom_ids = _custom_ids(lines)
    stems = choose_stems(custom_ids, [_count_images(settings.defaults | line) for line in lines])
    pairs = zip(lines, custom_ids, stems, strict=True)
    return Plan(settings, [_entry(*pair) for pair in pairs], others)


def files_of(plan: Plan) -> Iterator[str]:
    """Every local file of the plan, each once, in the order of the entries."""
    return iter(dict.fromkeys(file for entry in plan.entries for file in entry.files.values()))


def _lines_of_manifest(options: FolderOptions) -> tuple[list[dict[str, Any]], int]:
    assert options.manifest is not None
    return read_manifest(options.manifest, options.folder), 0


def _lines_of_folder(options: FolderOptions) -> tuple[list[dict[str, Any]], int]:
    folder = options.folder
    assert folder is not None
    root = folder.resolve()
    found = find_pictures(root, recursive=options.recursive is not False, without=options.out)
    lines: list[dict[str, Any]] = [{"image": {"file": str(root / name)}} for name in found.pictures]
    if options.mask_dir is not None:
        masks = find_masks(found.pictures, options.mask_dir.resolve(), without=options.out)
        lines = [line | {"mask": {"file": str(mask)}} for line, mask in zip(lines, masks, strict=True)]
    names = choose_custom_ids(found.pictures)
    return [line | {"custom_id": name} for line, name in zip(lines, names, strict=True)], found.others


def _refuse_grids(requests: Iterable[Mapping[str, Any]]) -> None:
    outputs = (request.get("output") for request in requests)
    if any(isinstance(output, dict) and output.get("grid") for output in outputs):
        raise FolderError(
            "output.grid is not for batches of files, which have no place for it: leave it out", exit_code=2
        )


def _custom_ids(lines: list[dict[str, Any]]) -> list[str]:
    """Those that the lines give, which must differ; for the others the names of their pictures, or their numbers."""
    given = [line["custom_id"] for line in lines if "custom_id" in line]
    wrong = next((one for one in given if not isinstance(one, str) or not one), None)
    if wrong is not None:
        raise FolderError(f"a custom_id is text and not empty, not {wrong!r}", exit_code=2)
    often = Counter(given).most_common(1)
    if often and often[0][1] > 1:
        raise FolderError(f"{often[0][1]} lines have the custom_id {often[0][0]}", exit_code=2)
    ours = [_name(number, line) for number, line in enumerate(lines) if "custom_id" not in line]
    fresh = iter(choose_custom_ids([*given, *ours])[len(given) :])
    return [line["custom_id"] if "custom_id" in line else next(fresh) for line in lines]


def _name(number: int, line: Mapping[str, Any]) -> str:
    image = line.get("image")
    return Path(image["file"]).name if isinstance(image, dict) and "file" in image else str(number)


def _count_images(fields: Mapping[str, Any]) -> int:
    """How many pictures the job makes; a wrong number is for the server to refuse."""
    count = fields.get("num_images")
    return count if isinstance(count, int) else 1


def _entry(line: Mapping[str, Any], custom_id: str, stem: str) -> Entry:
    fields = {
        name: value
        for name, value in line.items()
        if name not in ("custom_id", *ROLES) or (name in ROLES and value is None)
    }
    sources = {role: line.get(role) for role in ROLES}
    for role, source in sources.items():
        if not isinstance(source, dict | None):
            raise FolderError(
                f'{custom_id}: {role} must be the name of a file, or an object such as {{"url": "…"}}', exit_code=2
            )
    return Entry(custom_id, stem, fields, **sources)


def _absolute(path: Path | None) -> str | None:
    return None if path is None else str(path.resolve())


def _digest(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise FolderError(f"{path} cannot be read: {error.strerror or error}", exit_code=2) from error
