"""Results: the bytes of finished jobs."""

import re
from typing import Annotated

from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import RedirectResponse

from api.auth import Reader
from api.dependencies import ServicesDep, accepts_query
from api.routes.responses import PROBLEMS, has_match, not_modified
from api.use_cases.fetch_image import Fetched, find_result, read_result
from common.domain.errors import NotFound

router = APIRouter(prefix="/v1/jobs", tags=["jobs"], responses=PROBLEMS)


@router.get(
    "/{job_id}/images/{index}",
    summary="Fetch a result",
    responses={
        200: {"content": {f"image/{kind}": {} for kind in ("png", "jpeg", "webp")}, "description": "The bytes."},
        304: {"description": "The `If-None-Match` tag still stands."},
        307: {"description": "To a presigned URL of the object store, fresh with every request."},
    },
    dependencies=[accepts_query("download")],
)
def fetch(
    request: Request,
    services: ServicesDep,
    caller: Reader,
    job_id: str,
    index: str,
    download: Annotated[bool, Query(description="Answer as an attachment.")] = False,
) -> Response:
    """The bytes, or where the object store can, a redirect to a short-lived URL of it."""
    fetched = find_result(services, caller, job_id, _number(index), as_download=download)
    if fetched.url is not None:
        return RedirectResponse(fetched.url, 307, {"Cache-Control": "no-store"})
    headers = _headers(fetched, as_download=download)
    if has_match(request, headers["ETag"]):
        return not_modified(headers["ETag"], {"Cache-Control": headers["Cache-Control"]})
    return Response(read_result(services, fetched.image), 200, headers, fetched.image.content_type)


def _number(index: str) -> int:
    if not re.fullmatch(r"[0-9]{1,2}", index):
        raise NotFound("the job has no such image (yet)")
    return int(index)


def _headers(fetched: Fetched, *, as_download: bool) -> dict[str, str]:
    disposition = "attachment" if as_download else "inline"
    return {
        "ETag": f'"{fetched.image.sha256}"',
        "Cache-Control": "private, max-age=300",
        "Content-Disposition": f'{disposition}; filename="{fetched.filename}"',
        "Content-Security-Policy": "default-src 'none'; sandbox",
    }
