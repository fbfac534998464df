"""The manifest of a batch on its way to the store: a temporary file, its lines counted, its bytes digested."""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from tempfile import SpooledTemporaryFile
from typing import Any, BinaryIO, Final, cast

from common.domain.batch import MOST_LINES, MOST_MANIFEST_BYTES
from common.domain.errors import Invalid, Problem, Refusal
from common.requests.lines import iterate_lines

MOST_LINE_ENDS: Final = 1_000_000
"""Blank lines count for nothing, but so many of them are no manifest."""

_PIECE_BYTES: Final = 1 << 20
_POINTER: Final = "/manifest"


@dataclass(frozen=True, slots=True)
class Manifest:
    """JSON Lines in a seekable file: how many lines that are not blank, how many bytes, and their SHA-256."""

    file: BinaryIO
    lines: int
    bytes: int
    sha256: str

    def close(self) -> None:
        """The file goes."""
        self.file.close()


def measure_manifest(file: BinaryIO) -> Manifest:
    """The manifest that a client sent. Reads the file once, in pieces.

    Raises `Refusal` (`payload_too_large`) above `MOST_MANIFEST_BYTES`, `Invalid` with the count for no lines and for
    more than `MOST_LINES`. What the lines say is judged later.
    """
    gauge = _Gauge()
    lines = sum(1 for _ in iterate_lines(gauge.pieces_of(file)))
    if not 1 <= lines <= MOST_LINES:
        raise too_many_lines(_POINTER, lines, "the manifest has") if lines else no_lines(_POINTER)
    return Manifest(file, lines, gauge.bytes, gauge.digest.hexdigest())


def write_manifest(lines: Iterable[Mapping[str, Any]], pointer: str) -> Manifest:
    """A manifest of these lines. Raises `Invalid` at `pointer` when they are more than a manifest holds, or hold what
    JSON does not.
    """
    file = cast(BinaryIO, SpooledTemporaryFile(max_size=_PIECE_BYTES))  # noqa: SIM115 - whoever has it closes it
    try:
        return _write(file, lines, pointer)
    except BaseException:
        file.close()
        raise


def too_many_lines(pointer: str, lines: int, what: str) -> Invalid:
    """`what` has so many lines, which are too many."""
    detail = f"{what} {lines} lines; a batch has {MOST_LINES} at most"
    return Invalid([Problem(pointer, "validation_error", detail, {"maximum": MOST_LINES})])


def no_lines(pointer: str) -> Invalid:
    """There is nothing to do."""
    detail = "there are no lines; a batch has at least one"
    return Invalid([Problem(pointer, "validation_error", detail, {"minimum": 1, "maximum": MOST_LINES})])


class _Gauge:
    """Takes the measure of a file while it is read."""

    def __init__(self) -> None:
        self.digest = hashlib.sha256()
        self.bytes = 0
        self._line_ends = 0

    def pieces_of(self, file: BinaryIO) -> Iterator[bytes]:
        file.seek(0)
        while piece := file.read(_PIECE_BYTES):
            self.digest.update(piece)
            self.bytes += len(piece)
            self._line_ends += piece.count(b"\n")
            if self.bytes > MOST_MANIFEST_BYTES:
                raise Refusal(f"manifest is larger than {MOST_MANIFEST_BYTES} bytes", code="payload_too_large")
            if self._line_ends > MOST_LINE_ENDS:
                detail = f"the manifest has more than {MOST_LINE_ENDS} lines, with blank ones; a batch has {MOST_LINES}"
                raise Invalid([Problem(_POINTER, "validation_error", f"{detail} at most", {"maximum": MOST_LINES})])
            yield piece


def _write(file: BinaryIO, lines: Iterable[Mapping[str, Any]], pointer: str) -> Manifest:
    digest, written, count = hashlib.sha256(), 0, 0
    for line in lines:
        data = _encode(line, pointer, count)
        written += len(data)
        if written > MOST_MANIFEST_BYTES:
            detail = f"the lines are larger than {MOST_MANIFEST_BYTES} bytes together, from line {count} on"
            raise Invalid([Problem(pointer, "validation_error", f"{detail}; send images as uploads")])
        digest.update(data)
        file.write(data)
        count += 1
    return Manifest(file, count, written, digest.hexdigest())


def _encode(line: Mapping[str, Any], pointer: str, number: int) -> bytes:
    try:
        return json.dumps(line, separators=(",", ":"), allow_nan=False).encode() + b"\n"
    except (ValueError, RecursionError):
        detail = f"line {number} has a number that is too large, or is nested too deeply"
        raise Invalid([Problem(pointer, "validation_error", detail)]) from None
