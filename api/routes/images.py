"""Results: the bytes of finished jobs."""

import re
from typing import Annotated, Any, Final

from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import RedirectResponse

from api.auth import Reader
from api.dependencies import Services, ServicesDep, accepts_query
from api.routes.responses import ETAG, PROBLEMS, IfNoneMatch, has_match, not_modified
from api.use_cases.fetch_image import Fetched, find_result, look_at_preview, read_result
from common.domain.errors import NotFound
from common.domain.job import GRID_INDEX

_POLICY: Final = "default-src 'none'; sandbox"
_BYTES: Final[dict[int | str, Any]] = {
    200: {
        "content": {f"image/{kind}": {} for kind in ("png", "jpeg", "webp")},
        "description": "The bytes.",
        "headers": ETAG,
    },
    304: {"description": "The `If-None-Match` tag still stands.", "headers": ETAG},
    307: {"description": "To a presigned URL of the object store, fresh with every request."},
}

router = APIRouter(prefix="/v1/jobs", tags=["jobs"], responses=PROBLEMS)


@router.get(
    "/{job_id}/images/{index}",
    summary="Fetch a result",
    response_class=Response,
    responses=_BYTES,
    dependencies=[accepts_query("download")],
)
def fetch(
    request: Request,
    services: ServicesDep,
    caller: Reader,
    job_id: str,
    index: str,
    download: Annotated[bool, Query(description="Answer as an attachment.")] = False,
    if_none_match: IfNoneMatch = None,
) -> Response:
    """The bytes, or where the object store can, a redirect to a short-lived URL of it."""
    found = find_result(services, caller, job_id, _number(index), as_download=download)
    return _answer(request, services, found, as_download=download)


@router.get(
    "/{job_id}/grid",
    summary="Fetch the input beside the results",
    response_class=Response,
    responses=_BYTES,
    dependencies=[accepts_query("download")],
)
def fetch_grid(
    request: Request,
    services: ServicesDep,
    caller: Reader,
    job_id: str,
    download: Annotated[bool, Query(description="Answer as an attachment.")] = False,
    if_none_match: IfNoneMatch = None,
) -> Response:
    """The grid of a job that asked for one (`output.grid`)."""
    found = find_result(services, caller, job_id, GRID_INDEX, as_download=download)
    return _answer(request, services, found, as_download=download)


@router.get(
    "/{job_id}/preview",
    summary="Look at what it is going to be",
    response_class=Response,
    responses={
        200: {"content": {"image/jpeg": {}}, "description": "The newest preview.", "headers": ETAG},
        204: {"description": "There is none (yet, or any more)."},
        304: {"description": "The `If-None-Match` tag still stands.", "headers": ETAG},
    },
    dependencies=[accepts_query()],
)
def fetch_preview(
    request: Request, services: ServicesDep, caller: Reader, job_id: str, if_none_match: IfNoneMatch = None
) -> Response:
    """A rough picture of a running job, made of its latents. The `preview` events of its stream carry the same tag."""
    found = look_at_preview(services, caller, job_id, lambda tag: has_match(request, tag))
    if found is None:
        return Response(status_code=204, headers={"Cache-Control": "no-store"})
    tag, picture = found
    headers = {"ETag": tag, "Cache-Control": "private, no-cache", "Content-Security-Policy": _POLICY}
    if picture is None:
        return not_modified(tag, {"Cache-Control": headers["Cache-Control"]})
    return Response(picture, 200, headers, "image/jpeg")


def _answer(request: Request, services: Services, fetched: Fetched, *, as_download: bool) -> Response:
    if fetched.url is not None:
        return RedirectResponse(fetched.url, 307, {"Cache-Control": "no-store"})
    headers = _headers(fetched, as_download=as_download)
    if has_match(request, headers["ETag"]):
        return not_modified(headers["ETag"], {"Cache-Control": headers["Cache-Control"]})
    return Response(read_result(services, fetched.image), 200, headers, fetched.image.content_type)


def _number(index: str) -> int:
    if not re.fullmatch(r"[0-9]{1,3}", index):
        raise NotFound("the job has no such image (yet)")
    return int(index)


def _headers(fetched: Fetched, *, as_download: bool) -> dict[str, str]:
    disposition = "attachment" if as_download else "inline"
    return {
        "ETag": f'"{fetched.image.sha256}"',
        "Cache-Control": "private, max-age=300",
        "Content-Disposition": f'{disposition}; filename="{fetched.filename}"',
        "Content-Security-Policy": _POLICY,
    }
