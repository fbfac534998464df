"""The results of a batch as a ZIP archive, made while it is read: images as they are stored, then `results.jsonl`."""

import re
import unicodedata
from collections.abc import Iterable, Iterator
from tempfile import SpooledTemporaryFile
from typing import IO, Any, Final

from zipstream import ZIP_STORED, ZipStream

from common.db.batch_results import ResultLine
from common.domain.errors import problem_document
from common.domain.job import StoredImage
from common.result_document import line_text, present_line
from common.storage.port import ObjectMissing, ObjectStore

INDEX: Final = "results.jsonl"

_MEMORY_BYTES: Final = 1 << 20
_READ_BYTES: Final = 64 << 10
_MOST_NAME_BYTES: Final = 180
_EXTENSION: Final = re.compile(r"\.(png|jpe?g|webp|gif|bmp|tiff?|avif|hei[cf]|jxl)$", re.IGNORECASE)
_UNSAFE: Final = re.compile(r'[<>:"/\\|?*]')
# Names that Windows gives to devices, with any extension.
_RESERVED: Final = re.compile(r"(con|prn|aux|nul|com[0-9¹²³]|lpt[0-9¹²³])(\.|$)", re.IGNORECASE)


def archive_pieces(lines: Iterable[ResultLine], store: ObjectStore, base: str) -> Iterator[bytes]:
    """The archive of these lines, in pieces of at most 1 MiB, with an empty one after each line: whoever reads it may
    stop in time where there are no images.

    In memory is one piece, and of every file its entry of the directory at the archive's end. An object that is no
    longer stored is left out, which its line in `results.jsonl` says. Raises `StoreUnavailable`.
    """
    archive, names = ZipStream(compress_type=ZIP_STORED), FileNames()
    with SpooledTemporaryFile(max_size=_MEMORY_BYTES) as told:
        for line in lines:
            document = present_line(line, base) | {"files": []}
            for image in line.images:
                yield from _add_image(archive, store, image, names.choose(line, image), document)
            told.write(line_text(document))
            yield b""
        size = told.tell()
        told.seek(0)
        archive.add(_read(told), INDEX, size=size)
        yield from archive.finalize()


def _add_image(
    archive: ZipStream, store: ObjectStore, image: StoredImage, name: str, document: dict[str, Any]
) -> Iterator[bytes]:
    try:
        content = store.stream(image.key)
    except ObjectMissing:
        document["files"].append(None)
        document["error"] = problem_document("gone", f"image {image.index} is no longer stored")
        return
    document["files"].append(name)
    archive.add(content, name, size=image.bytes)
    yield from archive.file()


def _read(file: IO[bytes]) -> Iterator[bytes]:
    while piece := file.read(_READ_BYTES):
        yield piece


class FileNames:
    """Names of files, each given once; those that differ in case only count as the same."""

    def __init__(self) -> None:
        self._taken: set[str] = set()
        self._numbers: dict[str, int] = {}

    def choose(self, line: ResultLine, image: StoredImage) -> str:
        """`<custom_id>.png`, or `<custom_id>-<index>.png` where the line has several images; numbered when taken."""
        stem = safe_stem(line.custom_id or str(line.line))
        if len(line.images) > 1:
            stem = f"{stem}-{image.index}"
        extension = image.content_type.rpartition("/")[2].replace("jpeg", "jpg")
        name = f"{stem}.{extension}"
        while (key := name.casefold()) in self._taken:
            start = f"{stem}.{extension}".casefold()
            number = self._numbers[start] = self._numbers.get(start, 1) + 1
            name = f"{stem}_{number}.{extension}"
        self._taken.add(key)
        return name


def safe_stem(custom_id: str) -> str:
    """A file name without extension that means no more than a name on any system: no folder, no drive, no device, no
    control characters, at most 180 bytes. The extension of a picture is left out.
    """
    text = unicodedata.normalize("NFC", _EXTENSION.sub("", custom_id))
    text = "".join("_" if unicodedata.category(one).startswith("C") else one for one in text)
    text = _UNSAFE.sub("_", text).encode()[:_MOST_NAME_BYTES].decode(errors="ignore").strip(" .")
    return f"_{text}" if not text or _RESERVED.match(text) else text
