"""The manifest of a batch, JSON Lines: one job request a line, merged over the defaults of the batch."""

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

from common.domain.batch import MOST_CUSTOM_ID
from common.domain.errors import Invalid, Problem, Refusal
from common.requests.base import check_text
from common.requests.job import JobRequest
from common.requests.json_text import parse_json
from common.requests.validation import MAX_PROBLEMS, clip, parse_job_request, unknown_names

MOST_LINE_BYTES: Final = 32 << 20
"""Image and mask as data URLs of 10 MiB each, and their job."""
MOST_DEFAULTS_BYTES: Final = 2 << 30
"""What the defaults of a batch come to when every line has taken them over."""

_BOM: Final = b"\xef\xbb\xbf"
_BLANK: Final = b" \t\r"
_OF_THE_BATCH: Final = {
    "priority": "priority is the batch's, for all of its jobs; it cannot be set here",
    "webhook": "webhook is the batch's, which tells once for all of its jobs; it cannot be set here",
}
_NO_DEFAULT: Final = {"custom_id": "custom_id is of one line; it has no default"}
_FIELDS: Final = tuple(name for name in JobRequest.model_fields if name not in _OF_THE_BATCH)
_KNOWN: Final = frozenset(_FIELDS)


@dataclass(frozen=True, slots=True)
class LineRead:
    """A line as it was read: its job request, or what is wrong with it, with pointers into the line.

    `custom_id` is its own or its number as text; `members` is what the line itself says.
    """

    number: int
    custom_id: str
    request: JobRequest | None = None
    problems: tuple[Problem, ...] = ()
    members: Mapping[str, Any] = field(default_factory=dict)


def iterate_lines(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """The lines of a file that comes in pieces: without line ends, byte order mark and blank ones.

    A line that is too long comes cut to `MOST_LINE_BYTES` + 1, which `read_line` refuses; memory stays bounded.
    """
    at_start = True
    for line in _split(pieces):
        text = (line.removeprefix(_BOM) if at_start else line).strip(_BLANK)
        at_start = False
        if text:
            yield text


def read_line(number: int, raw: bytes, defaults: Mapping[str, Any]) -> LineRead:
    """The line of this number, from 0: its members over the defaults, where null is back to the default of the field.

    Raises nothing: what is wrong stands in the answer.
    """
    members, problems = _parse(raw)
    if members is None:
        return LineRead(number, str(number), problems=problems)
    custom_id, wrong_id = _custom_id(number, members)
    problems = (*wrong_id, *wrong_names(members, "", ("custom_id",)))
    merged = {name: value for name, value in {**defaults, **members}.items() if value is not None and name in _KNOWN}
    try:
        request = parse_job_request(merged)
    except Invalid as error:
        problems += error.problems
    else:
        if not problems:
            return LineRead(number, custom_id, request, members=members)
    return LineRead(number, custom_id, problems=problems[:MAX_PROBLEMS], members=members)


def read_custom_id(number: int, raw: bytes) -> str:
    """The id that `read_line` finds, and no more work than that."""
    members, _ = _parse(raw)
    return str(number) if members is None else _custom_id(number, members)[0]


def read_retried(raw: bytes) -> tuple[str, str]:
    """Custom id and job of a line that `POST …/retry` wrote: `{"custom_id", "retry_of"}`."""
    members = parse_json(raw)
    return members["custom_id"], members["retry_of"]


def check_defaults(defaults: Mapping[str, Any], pointer: str = "/defaults") -> None:
    """Raises `Invalid` with pointers below `pointer` for names that do not exist or are no business of a line, and for
    values that are wrong whatever a line says.
    """
    problems = wrong_names(defaults, pointer)
    known = {name: value for name, value in defaults.items() if value is not None and name in _KNOWN}
    try:
        parse_job_request(known)
    except Invalid as error:
        # One at the root is about fields that do not go together, which a line may mend.
        problems += [replace(one, pointer=pointer + one.pointer) for one in error.problems if one.pointer]
    if problems:
        raise Invalid(problems[:MAX_PROBLEMS])


def check_size(defaults: Mapping[str, Any], lines: int, pointer: str = "/defaults") -> None:
    """Raises `Invalid` at `pointer` for what becomes too much when each of so many lines takes it over."""
    size = json_bytes(defaults)
    if size * lines > MOST_DEFAULTS_BYTES:
        most = MOST_DEFAULTS_BYTES // lines
        detail = f"{size} bytes, taken over by each of {lines} lines, are too much; for so many at most {most}"
        raise Invalid([Problem(pointer, "validation_error", detail)])


def json_bytes(members: Mapping[str, Any]) -> int:
    """How many bytes these members have as JSON."""
    return len(json.dumps(members, ensure_ascii=False).encode(errors="surrogatepass"))


def wrong_names(members: Mapping[str, Any], pointer: str, more: tuple[str, ...] = ()) -> list[Problem]:
    """The problems of names that no line may have, `more` names apart; of those that do not exist, the first."""
    if members.keys() <= _KNOWN.union(more):
        return []
    unfit = _OF_THE_BATCH | {name: text for name, text in _NO_DEFAULT.items() if name not in more}
    wrong = [name for name in members if name not in _KNOWN and name not in more]
    return [
        *(Problem(f"{pointer}/{name}", "validation_error", unfit[name]) for name in wrong if name in unfit),
        *unknown_names(pointer, (name for name in wrong if name not in unfit), [*more, *_FIELDS]),
    ]


def _split(pieces: Iterable[bytes]) -> Iterator[bytes]:
    held: list[bytes] = []
    size = 0
    for piece in pieces:
        *ended, rest = piece.split(b"\n")
        for part in ended:
            yield b"".join([*held, part])[: MOST_LINE_BYTES + 1] if held else part[: MOST_LINE_BYTES + 1]
            held, size = [], 0
        if rest and size <= MOST_LINE_BYTES:
            held.append(rest)
            size += len(rest)
    yield b"".join(held)[: MOST_LINE_BYTES + 1]


def _parse(raw: bytes) -> tuple[dict[str, Any] | None, tuple[Problem, ...]]:
    if len(raw) > MOST_LINE_BYTES:
        return None, (Problem("", "payload_too_large", f"the line has more than {MOST_LINE_BYTES} bytes"),)
    try:
        return parse_json(raw), ()
    except Refusal as error:
        return None, (Problem("", error.code, error.detail.replace("the body", "the line", 1)),)


def _custom_id(number: int, members: Mapping[str, Any]) -> tuple[str, tuple[Problem, ...]]:
    """The line's own id, or its number; with a problem when it is none."""
    value = members.get("custom_id")
    if value is None:
        return str(number), ()
    if not isinstance(value, str) or not 1 <= len(value) <= MOST_CUSTOM_ID:
        shown = repr(clip(value)) if isinstance(value, str) else f"a {type(value).__name__}"
        detail = f"custom_id must be text of 1 to {MOST_CUSTOM_ID} characters, not {shown}"
        allowed = {"minLength": 1, "maxLength": MOST_CUSTOM_ID}
        return str(number), (Problem("/custom_id", "validation_error", detail, allowed),)
    try:
        check_text(value)
    except ValueError:
        detail = "custom_id: text may not contain NUL or unpaired surrogates"
        return str(number), (Problem("/custom_id", "validation_error", detail),)
    return value, ()
