"""What comes out of a batch: its results line by line, its images as an archive, its events."""

from functools import partial
from typing import Annotated, Any, Final

from anyio import to_thread
from fastapi import APIRouter, Query, Request, Response

from api.auth import Reader
from api.dependencies import ServicesDep, accepts_query, base_url
from api.head import is_head
from api.live.batch_stream import BatchStream, BatchTelling, check_place, has_all
from api.live.download import Download
from api.live.telling import parse_place
from api.routes.events import LastEventId
from api.routes.responses import PROBLEMS, refusals
from api.use_cases.batch_results import open_archive, open_results, sight_batch
from common.domain.batch import MOST_CUSTOM_ID, MOST_LINES

router = APIRouter(prefix="/v1/batches", tags=["batches"], responses=PROBLEMS)

_JSONL: Final = "application/jsonl"
_LINE_EXAMPLE: Final = (
    '{"line":0,"custom_id":"img-0001","job":"job_…","status":"succeeded","images":[{"index":0,"url":"…"}],'
    '"error":null}\n'
)
_RESULTS: Final[dict[str, Any]] = {
    "description": "One line per item, in the order of the manifest.",
    "content": {_JSONL: {"schema": {"$ref": "#/components/schemas/ResultLine"}, "example": _LINE_EXAMPLE}},
}
_ARCHIVE: Final[dict[str, Any]] = {
    "description": "The archive. Cut off before its end when it could not be finished: unpack nothing of it then.",
    "content": {"application/zip": {"schema": {"type": "string", "format": "binary"}}},
}
_EVENTS_EXAMPLE: Final = (
    "retry: 1000\n\n"
    'event: status\nid: 2.0\ndata: {"id":"bat_…","status":"running","version":2,"batch":{…}}\n\n'
    'event: progress\nid: 2.1\ndata: {"status":"running","version":2,"counts":{…},"eta_seconds":41.0}\n\n'
    'event: status\nid: 3.0\ndata: {"id":"bat_…","status":"completed","version":3}\n\n'
    'event: done\nid: 3.1\ndata: {"id":"bat_…","status":"completed"}\n\n'
)
_STREAM: Final[dict[str, Any]] = {
    "description": "Events until the batch is over. When it ends without `done`, connect again.",
    "content": {"text/event-stream": {"schema": {"type": "string"}, "example": _EVENTS_EXAMPLE}},
}
After = Annotated[
    str | None,
    Query(max_length=MOST_CUSTOM_ID, description="The `custom_id` of an item: only those behind it in the manifest."),
]
AfterLine = Annotated[
    int | None,
    Query(ge=0, lt=MOST_LINES, description="In place of `after`: the `line` of an item, as the last one that came."),
]
Limit = Annotated[int | None, Query(ge=1, le=MOST_LINES, description="At most so many lines. Default: all.")]


@router.get(
    "/{batch_id}/results",
    summary="Read what came of each item",
    response_class=Response,
    responses={**refusals(404, 422), 200: _RESULTS},
    dependencies=[accepts_query("after", "after_line", "limit")],
)
async def results(
    request: Request,
    services: ServicesDep,
    caller: Reader,
    batch_id: str,
    after: After = None,
    after_line: AfterLine = None,
    limit: Limit = None,
) -> Response:
    """JSON Lines: every item that stands, with the state that it has while its line is sent.

    Empty while the batch is validated. A connection that breaks off is resumed with `after_line` (or
    `after`, where items have a `custom_id`).
    """
    opened = partial(open_results, services, caller, batch_id, base_url(request))
    return Download(
        await to_thread.run_sync(partial(opened, after=after, after_line=after_line, limit=limit)),
        media_type=_JSONL,
        room=services.room,
        threads=services.downloads,
        stall_seconds=services.settings.stream_stall_seconds,
        is_head=is_head(request.scope),
    )


@router.get(
    "/{batch_id}/archive",
    summary="Fetch all images",
    response_class=Response,
    responses={**refusals(404, 409), 200: _ARCHIVE},
    dependencies=[accepts_query()],
)
async def archive(request: Request, services: ServicesDep, caller: Reader, batch_id: str) -> Response:
    """A ZIP archive of the images that there are by now, then `results.jsonl`, whose lines name their `files`.

    A file is called `<custom_id>.png`, or `<custom_id>-<index>.png` where an item has several images, with its own
    extension; what a file name may not contain becomes `_`, and names that would be the same are numbered.
    """
    pieces = await to_thread.run_sync(open_archive, services, caller, batch_id, base_url(request))
    return Download(
        pieces,
        media_type="application/zip",
        room=services.room,
        threads=services.downloads,
        stall_seconds=services.settings.stream_stall_seconds,
        headers={"Content-Disposition": f'attachment; filename="{batch_id}.zip"'},
        is_head=is_head(request.scope),
    )


@router.get(
    "/{batch_id}/events",
    summary="Follow a batch",
    response_class=Response,
    responses={
        **refusals(404, 422),
        200: _STREAM,
        204: {"description": "`Last-Event-ID` is that of `done`: there will be nothing more."},
    },
    dependencies=[accepts_query()],
)
async def follow(
    request: Request, services: ServicesDep, caller: Reader, batch_id: str, last_event_id: LastEventId = None
) -> Response:
    """Server-sent events: `status`, `progress` and `done`.

    The first is the `status` now, with the batch as a whole in `batch`. From then on a `status` follows each change of
    it, `progress` with the newest counts at most once a second, and `done` with the batch at the end. A stream that is
    connected again begins with the batch as it is.
    """
    place = parse_place(request.headers.getlist("last-event-id"))
    sighting = await sight_batch(services, caller, batch_id, at_least=place[0] if place else 0)
    check_place(place, sighting.batch)
    if has_all(place, sighting.batch):
        return Response(status_code=204)
    telling = BatchTelling(base_url(request))
    return BatchStream(services.settings, services.batch_watch, sighting, telling, is_head=is_head(request.scope))
