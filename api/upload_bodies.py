"""The bodies of uploads: one file in a form, a file as it is, or a declaration in JSON."""

from typing import Any, Final, TypeVar

from fastapi import Request
from pydantic import BaseModel, ValidationError
from starlette.datastructures import FormData, UploadFile
from starlette.formparsers import MultiPartException

from api.bodies import read_body
from api.dependencies import services_of
from api.forms import WholeForm
from common.domain.errors import Invalid, Problem, Refusal
from common.requests.validation import name_of, pointer_to, unknown_name

FILE: Final = "file"
_MAX_PARTS, _MAX_FIELD_BYTES = 4, 1 << 16

Model = TypeVar("Model", bound=BaseModel)


async def read_file_form(request: Request) -> bytes:
    """The file part `file` of a form that has nothing else.

    Raises `Refusal` (`invalid_multipart`, `payload_too_large`, `unsupported_media_type`), or `Invalid` naming the part.
    """
    _check_media_type(request, "multipart/form-data")
    parser = _FileForm(
        request.headers,
        request.stream(),
        max_files=_MAX_PARTS,
        max_fields=_MAX_PARTS,
        max_part_size=_MAX_FIELD_BYTES,
    )
    parser.max_image_bytes = services_of(request).settings.max_image_bytes
    try:
        form = await parser.parse()
    except MultiPartException as error:
        raise Refusal(f"the form cannot be read: {error.message}", code="invalid_multipart") from None
    try:
        return await _only_file(form)
    finally:
        await form.close()


async def read_content(request: Request, max_bytes: int) -> bytes:
    """The body as it is. Raises `Refusal` (`payload_too_large`) where it passes `max_bytes`."""
    if "content-encoding" in request.headers:
        raise Refusal("a body has no Content-Encoding", code="unsupported_media_type")
    data = bytearray()
    async for chunk in request.stream():
        data += chunk
        if len(data) > max_bytes:
            raise Refusal(f"the file is larger than the declared {max_bytes} bytes", code="payload_too_large")
    return bytes(data)


async def read_json(request: Request, model: type[Model]) -> Model:
    """The typed body; raises `Refusal` (`invalid_json`, `unsupported_media_type`) or `Invalid` with each field."""
    _check_media_type(request, "application/json")
    body = await read_body(request)
    try:
        return model.model_validate(body.members)
    except ValidationError as error:
        raise Invalid([_problem(found, model) for found in error.errors(include_url=False)[:20]]) from None


class _FileForm(WholeForm):
    """Counts the one file while it comes."""

    def on_part_data(self, data: bytes, start: int, end: int) -> None:
        """Raises `Refusal` (`payload_too_large`) where a part passes the limit of images."""
        super().on_part_data(data, start, end)
        if self.part_bytes > self.max_image_bytes:
            raise Refusal(f"the file is larger than {self.max_image_bytes} bytes", code="payload_too_large")


def _check_media_type(request: Request, wanted: str) -> None:
    types = request.headers.getlist("content-type")
    given = types[0].partition(";")[0].strip().lower() if len(types) == 1 else ""
    if given != wanted or "content-encoding" in request.headers:
        detail = f"the body must be {wanted}, with one Content-Type and no Content-Encoding"
        raise Refusal(detail, code="unsupported_media_type")


async def _only_file(form: FormData) -> bytes:
    parts = form.multi_items()
    problems = [unknown_name(pointer_to([name]), name, [FILE]) for name, _ in parts if name != FILE]
    files = [part for name, part in parts if name == FILE]
    if len(files) > 1:
        problems.append(Problem(f"/{FILE}", "validation_error", f"{FILE} is given twice"))
    if not files:
        problems.append(Problem(f"/{FILE}", "validation_error", f"{FILE} is required"))
    elif not isinstance(files[0], UploadFile):
        detail = f"{FILE} must be a file part with a file name; with curl: -F {FILE}=@picture.png"
        problems.append(Problem(f"/{FILE}", "validation_error", detail))
    if problems:
        raise Invalid(problems)
    assert isinstance(files[0], UploadFile)
    return await files[0].read()


def _problem(error: Any, model: type[BaseModel]) -> Problem:
    pointer = pointer_to(error["loc"])
    name = name_of(error["loc"])
    if error["type"] == "extra_forbidden":
        return unknown_name(pointer, name, list(model.model_fields))
    if error["type"] == "missing":
        return Problem(pointer, "validation_error", f"{name} is required")
    message = error["msg"]
    return Problem(pointer, "validation_error", f"{name}: {message[:1].lower()}{message[1:]}")
