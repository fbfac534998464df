"""The bodies that make batches: JSON with items or a matrix, or a form with a manifest that memory never holds."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, BinaryIO, Final

from fastapi import Request
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import FormData, UploadFile
from starlette.formparsers import MultiPartException

from api.bodies import FORM, JSON, fingerprint_of, media_type_of
from api.dependencies import room_for_a_body, room_for_a_manifest, services_of
from api.forms import WholeForm
from api.manifests import Manifest, measure_manifest, write_manifest
from api.matrix import POINTER, Matrix, check_matrix, expand_matrix
from api.schemas.batches import BatchEnvelope, BatchRequest
from common.domain.batch import MOST_MANIFEST_BYTES
from common.domain.errors import Invalid, Problem, Refusal
from common.requests.json_text import parse_json
from common.requests.validation import parse_as, pointer_to, unknown_name

MOST_REQUEST_BYTES: Final = 1 << 20
MOST_BODY_BYTES: Final = MOST_MANIFEST_BYTES + MOST_REQUEST_BYTES
"""Of a form; JSON is as long as any other body."""

_MOST_VALUES: Final = 1_000_000
_REQUEST, _MANIFEST = "request", "manifest"
_MAX_PARTS: Final = 4
_ITEMS: Final = "/items"


@dataclass(frozen=True, slots=True)
class BatchBody:
    """A request for a batch, and the fingerprint of all that it says.

    `draw` makes its manifest, when that is needed, and takes time; whoever has it closes it. Raises `Invalid` for more
    than a manifest holds.
    """

    request: BatchEnvelope
    fingerprint: str
    draw: Callable[[], Manifest]


@asynccontextmanager
async def reading_batch_body(request: Request) -> AsyncIterator[BatchBody]:
    """The body, which keeps its place, and its file, for as long as the block runs.

    Raises `Refusal` (`unsupported_media_type`, `invalid_json`, `invalid_multipart`, `payload_too_large`), or `Invalid`
    naming every wrong field; `Unavailable` when too many are on their way.
    """
    services = services_of(request)
    if media_type_of(request, (JSON, FORM)) == JSON:
        async with room_for_a_body(services):
            data = await _read_json(request, services.settings.max_body_bytes)
            yield await run_in_threadpool(_from_json, request, data)
        return
    async with room_for_a_manifest(services):
        form = await _read_form(request)
        try:
            yield await run_in_threadpool(_from_form, request, form)
        finally:
            await form.close()


async def _read_json(request: Request, most_bytes: int) -> bytes:
    data = bytearray()
    async for chunk in request.stream():
        data += chunk
        if len(data) > most_bytes:
            raise Refusal(f"the body is larger than {most_bytes} bytes", code="payload_too_large")
    return bytes(data)


def _from_json(request: Request, data: bytes) -> BatchBody:
    members = parse_json(data, most_values=_MOST_VALUES)
    wish = parse_as(BatchRequest, members)
    fingerprint = fingerprint_of(request.method, request.url.path, members, {})
    if wish.matrix is None:
        return BatchBody(wish, fingerprint, partial(write_manifest, wish.items or [], _ITEMS))
    matrix = Matrix(wish.matrix.zip, wish.matrix.product)
    check_matrix(matrix)
    return BatchBody(wish, fingerprint, lambda: write_manifest(expand_matrix(matrix), POINTER))


class _ManifestForm(WholeForm):
    """Bounds its parts while they come."""

    max_image_bytes = MOST_REQUEST_BYTES

    def on_part_data(self, data: bytes, start: int, end: int) -> None:
        """Raises `Refusal` (`payload_too_large`) where a part passes its limit."""
        super().on_part_data(data, start, end)
        name = self._current_part.field_name
        most = MOST_MANIFEST_BYTES if name == _MANIFEST else MOST_REQUEST_BYTES
        if self.part_bytes > most:
            raise Refusal(f"{name[:80]} is larger than {most} bytes", code="payload_too_large")


async def _read_form(request: Request) -> FormData:
    parser = _ManifestForm(
        request.headers,
        request.stream(),
        max_files=_MAX_PARTS,
        max_fields=_MAX_PARTS,
        max_part_size=MOST_REQUEST_BYTES,
    )
    try:
        return await parser.parse()
    except MultiPartException as error:
        raise Refusal(f"the form cannot be read: {error.message}", code="invalid_multipart") from None


def _from_form(request: Request, form: FormData) -> BatchBody:
    file = _manifest_of(form)
    members = _request_of(form)
    for name in ("items", "matrix"):
        if name in members:
            detail = f"the lines of a form are in its part manifest; leave {name} out"
            raise Invalid([Problem(f"/{name}", "validation_error", detail)])
    wish = parse_as(BatchEnvelope, members)
    manifest = measure_manifest(file)
    digests = {_MANIFEST: manifest.sha256}
    return BatchBody(wish, fingerprint_of(request.method, request.url.path, members, digests), lambda: manifest)


def _manifest_of(form: FormData) -> BinaryIO:
    """Its file. Raises `Invalid` for every part that there should not be, and for the one that is missing."""
    problems = [
        unknown_name(pointer_to([name]), name, [_REQUEST, _MANIFEST])
        for name in form
        if name not in (_REQUEST, _MANIFEST)
    ]
    problems += [
        Problem(f"/{name}", "validation_error", f"{name} is given twice")
        for name in (_REQUEST, _MANIFEST)
        if len(form.getlist(name)) > 1
    ]
    part = form.get(_MANIFEST)
    if isinstance(part, str):
        detail = "manifest must be a file part with a file name; with curl: -F manifest=@manifest.jsonl"
        problems.append(Problem(f"/{_MANIFEST}", "validation_error", detail))
    elif part is None:
        problems.append(Problem(f"/{_MANIFEST}", "validation_error", "manifest is required: JSON Lines, as a file"))
    if problems:
        raise Invalid(problems)
    assert isinstance(part, UploadFile)
    return part.file


def _request_of(form: FormData) -> dict[str, Any]:
    part = form.get(_REQUEST)
    if part is None:
        return {}
    return parse_json(part.encode() if isinstance(part, str) else part.file.read())
