"""Uploads: images sent ahead of a job."""

from typing import Any, Final

from anyio import to_thread
from fastapi import APIRouter, Depends, Request, Response
from fastapi.responses import JSONResponse

from api.auth import Reader, Writer
from api.dependencies import ServicesDep, accepts_query, base_url, refuse_body, room_for_a_body
from api.routes.responses import PROBLEMS
from api.schemas.uploads import PresignedUpload, PresignRequest
from api.schemas.uploads import Upload as UploadAnswer
from api.upload_bodies import read_content, read_file_form, read_json
from api.use_cases import uploads as use_cases
from common.clock import to_rfc3339
from common.db.uploads import Upload, UploadState

router = APIRouter(prefix="/v1/uploads", tags=["uploads"], responses=PROBLEMS, dependencies=[accepts_query()])

_BINARY: Final = {"type": "string", "format": "binary"}
_FORM: Final = {"type": "object", "required": ["file"], "properties": {"file": _BINARY}, "additionalProperties": False}
_LOCATION: Final = {"Location": {"schema": {"type": "string"}}}


def _takes(media_type: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {"requestBody": {"required": True, "content": {media_type: {"schema": schema}}}}


@router.post(
    "",
    status_code=201,
    summary="Upload an image",
    responses={201: {"model": UploadAnswer, "headers": _LOCATION}},
    openapi_extra=_takes("multipart/form-data", _FORM),
)
async def create(request: Request, services: ServicesDep, caller: Writer) -> Response:
    """`curl -F file=@cat.png …`; the answer's `id` is then the `upload` of any number of jobs, for 24 hours."""
    async with room_for_a_body(services):
        data = await read_file_form(request)
        upload = await to_thread.run_sync(use_cases.upload_image, services, caller, data, limiter=services.submits)
    base = base_url(request)
    return JSONResponse(_present(upload, base), 201, {"Location": _url(upload, base)})


@router.post(
    "/presign",
    status_code=201,
    summary="Announce an image",
    responses={201: {"model": PresignedUpload, "headers": _LOCATION}},
    openapi_extra=_takes("application/json", PresignRequest.model_json_schema()),
)
async def presign(request: Request, services: ServicesDep, caller: Writer) -> Response:
    """For large images: declare the file, PUT it as `put` says, then POST to `urls.complete`."""
    declared = await read_json(request, PresignRequest)
    awaited = await to_thread.run_sync(use_cases.presign_upload, services, caller, declared, limiter=services.submits)
    base = base_url(request)
    url = _url(awaited.upload, base)
    put = {
        "url": awaited.url or f"{url}/content",
        "method": "PUT",
        "headers": dict(awaited.headers),
        "expires_at": to_rfc3339(awaited.until),
    }
    return JSONResponse(_present(awaited.upload, base) | {"put": put}, 201, {"Location": url})


@router.put(
    "/{upload_id}/content",
    status_code=204,
    summary="Send the file of an announced image",
    openapi_extra=_takes("application/octet-stream", _BINARY),
)
async def put_content(request: Request, services: ServicesDep, caller: Writer, upload_id: str) -> Response:
    """Where `put.url` leads when there is no object store with URLs of its own. At most the declared bytes."""
    async with room_for_a_body(services):
        upload = await to_thread.run_sync(use_cases.require_pending, services, caller, upload_id)
        data = await read_content(request, upload.declared_bytes or 0)
        await to_thread.run_sync(use_cases.receive_content, services, upload, data, limiter=services.submits)
    return Response(status_code=204)


@router.post(
    "/{upload_id}/complete",
    summary="Complete an announced image",
    responses={200: {"model": UploadAnswer}},
    dependencies=[Depends(refuse_body)],
)
async def complete(request: Request, services: ServicesDep, caller: Writer, upload_id: str) -> Response:
    """Check and decode the file that came. May be repeated; a file that is not the declared one is final."""
    async with room_for_a_body(services):
        upload = await to_thread.run_sync(
            use_cases.complete_upload, services, caller, upload_id, limiter=services.submits
        )
    return JSONResponse(_present(upload, base_url(request)))


@router.get("/{upload_id}", summary="Look at an upload", responses={200: {"model": UploadAnswer}})
def show(request: Request, services: ServicesDep, caller: Reader, upload_id: str) -> Response:
    """410 after its life, and 404 some time later."""
    return JSONResponse(_present(use_cases.look_at_upload(services, caller, upload_id), base_url(request)))


@router.delete("/{upload_id}", status_code=204, summary="Delete an upload", dependencies=[Depends(refuse_body)])
def delete(services: ServicesDep, caller: Writer, upload_id: str) -> Response:
    """Jobs that use its picture keep it."""
    use_cases.forget_upload(services, caller, upload_id)
    return Response(status_code=204)


def _url(upload: Upload, base: str) -> str:
    return f"{base}/v1/uploads/{upload.id}"


def _present(upload: Upload, base: str) -> dict[str, Any]:
    picture, url = upload.picture, _url(upload, base)
    return {
        "id": upload.id,
        "status": upload.state,
        "width": picture and picture.width,
        "height": picture and picture.height,
        "bytes": picture and picture.bytes,
        "sha256": picture and picture.sha256,
        "created_at": to_rfc3339(upload.created_at),
        "expires_at": to_rfc3339(upload.expires_at),
        "urls": {"self": url, "complete": f"{url}/complete" if upload.state is UploadState.PENDING else None},
    }
