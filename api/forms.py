"""A multipart form to members and files: flat fields (`strength=0.6`, `output.format=jpeg`) or one `request` part."""

import json
import re
from collections.abc import AsyncGenerator, Iterable
from typing import Any, Final

from fastapi import Request
from starlette.datastructures import FormData, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser

from api.dependencies import services_of
from common.domain.errors import Invalid, Problem, Refusal
from common.requests.json_text import parse_json
from common.requests.validation import field_schema

Form = tuple[dict[str, Any], dict[str, bytes]]

FILE_FIELDS: Final = ("image", "mask")
_MAX_FILES, _MAX_FIELDS, _MAX_FIELD_BYTES = 4, 100, 1 << 20
_NUMBER: Final = re.compile(r"[+-]?(\d{1,20}\.?\d{0,40}|\.\d{1,40})([eE][+-]?\d{1,4})?")
_WHOLE: Final = re.compile(r"[+-]?\d{1,20}")


async def read_form(request: Request) -> Form:
    """The members and files of a form. Raises `Refusal` (`invalid_multipart`) or `Invalid` naming the field."""
    parser = WholeForm(
        request.headers,
        request.stream(),
        max_files=_MAX_FILES,
        max_fields=_MAX_FIELDS,
        max_part_size=_MAX_FIELD_BYTES,
    )
    parser.max_image_bytes = services_of(request).settings.max_image_bytes
    try:
        form = await parser.parse()
    except MultiPartException as error:
        raise Refusal(f"the form cannot be read: {error.message}", code="invalid_multipart") from None
    try:
        return _members_of(form, await _read_files(form))
    finally:
        await form.close()


class WholeForm(MultiPartParser):
    """Starlette's parser, which takes a form that was cut off for a shorter one; this one does not."""

    max_image_bytes = 0
    _has_ended = False
    part_bytes = 0

    def on_part_begin(self) -> None:
        """Counts from nothing."""
        self.part_bytes = 0
        super().on_part_begin()

    def on_part_data(self, data: bytes, start: int, end: int) -> None:
        """Raises `Refusal` (`payload_too_large`) where an image passes its limit."""
        self.part_bytes += end - start
        name = self._current_part.field_name
        if name in FILE_FIELDS and self.part_bytes > self.max_image_bytes:
            raise Refusal(f"{name} is larger than {self.max_image_bytes} bytes", code="payload_too_large")
        super().on_part_data(data, start, end)

    def on_part_end(self) -> None:
        """Raises `Invalid` for text that is not UTF-8, which Starlette takes for Latin-1."""
        if self._current_part.file is None:
            _check_text(self._current_part.field_name, self._current_part.data)
        super().on_part_end()

    def on_end(self) -> None:
        """The closing boundary was seen."""
        self._has_ended = True
        super().on_end()

    async def parse(self) -> FormData:
        """As Starlette's; also raises `MultiPartException` when the body ends before the form."""
        self.stream = self._to_its_end(self.stream)
        return await super().parse()

    async def _to_its_end(self, stream: AsyncGenerator[bytes, None]) -> AsyncGenerator[bytes, None]:
        async for chunk in stream:
            yield chunk
        if not self._has_ended:
            raise MultiPartException("it ends before its closing boundary")


def _check_text(name: str, data: bytes | bytearray) -> None:
    try:
        data.decode()
    except UnicodeDecodeError:
        detail = f"{name[:80]} is not UTF-8 text"
        raise Invalid([Problem(f"/{name[:80].replace('.', '/')}", "validation_error", detail)]) from None


async def _read_files(form: FormData) -> dict[str, bytes]:
    files: dict[str, bytes] = {}
    for name, part in form.multi_items():
        if isinstance(part, UploadFile):
            if name in files:
                raise _given_twice(name)
            files[name] = await part.read()
    return files


def _members_of(form: FormData, files: dict[str, bytes]) -> Form:
    fields = [(name, part) for name, part in form.multi_items() if isinstance(part, str)]
    request = [text.encode() for name, text in fields if name == "request"]
    request += [files.pop("request")] if "request" in files else []
    if not request:
        return _check_files(_flat(fields), files)
    if len(request) + len(fields) > 2 or len(request) > 1:
        detail = "a form has either one `request` part and files, or flat fields and files"
        raise Invalid([Problem("/request", "validation_error", detail)])
    return _check_files(parse_json(request[0]), files)


def _check_files(members: dict[str, Any], files: dict[str, bytes]) -> Form:
    """A file of an unknown name becomes an unknown member, so that it is refused as one."""
    for name in files:
        if name in members:
            raise _given_twice(name)
    unknown = {name: None for name in files if name not in FILE_FIELDS}
    return members | unknown, {name: data for name, data in files.items() if name in FILE_FIELDS}


def _flat(fields: Iterable[tuple[str, str]]) -> dict[str, Any]:
    members: dict[str, Any] = {}
    for name, text in fields:
        _put(members, name, text)
    return members


def _put(members: dict[str, Any], name: str, text: str) -> None:
    head, dot, tail = name.partition(".")
    place, key = (members.setdefault(head, {}), tail) if dot else (members, name)
    if not isinstance(place, dict):
        raise _given_twice(head)
    schema = field_schema([head, tail] if dot else [head])
    if name in FILE_FIELDS:
        raise Invalid([_not_a_file(name)])
    if schema.get("type") == "array":
        listed = place.setdefault(key, [])
        if not isinstance(listed, list):
            raise _given_twice(name)
        listed.append(text)
    elif key in place:
        raise _given_twice(name)
    else:
        place[key] = _value(text, schema.get("type"))


def _value(text: str, kind: str | None) -> Any:
    """The JSON value that the text of a field stands for; malformed text stays, and is refused by its field."""
    if kind == "integer" and _WHOLE.fullmatch(text):
        return int(text)
    if kind == "number" and _NUMBER.fullmatch(text):
        return float(text)
    if kind == "boolean" and text in ("true", "false"):
        return json.loads(text)
    return text


def _not_a_file(name: str) -> Problem:
    detail = f"{name} must be a file part with a file name; with curl: -F {name}=@picture.png"
    return Problem(f"/{name}", "validation_error", detail)


def _given_twice(name: str) -> Invalid:
    shown = name[:80]
    return Invalid([Problem(f"/{shown.replace('.', '/')}", "validation_error", f"{shown} is given twice")])
