"""The event stream of a job."""

from typing import Annotated, Any, Final

from fastapi import APIRouter, Header, Request, Response
from pydantic import WithJsonSchema

from api.auth import Reader
from api.dependencies import ServicesDep, accepts_query, base_url
from api.head import is_head
from api.live.stream import EventStream, Means
from api.live.telling import ID_PATTERN, Telling, check_place, has_all, parse_place
from api.routes.responses import PROBLEMS, refusals
from api.use_cases.wait_for_job import sight_job

router = APIRouter(prefix="/v1/jobs", tags=["jobs"], responses=PROBLEMS)

_EXAMPLE: Final = (
    "retry: 1000\n\n"
    'event: status\nid: 3.0\ndata: {"id":"job_…","status":"running","version":3,"kind":"job.started","job":{…}}\n\n'
    'event: progress\nid: 3.1\ndata: {"status":"running","version":3,"progress":{…},"queue":{…}}\n\n'
    'event: output\nid: 4.1\ndata: {"index":0,"url":"…"}\n\n'
    'event: done\nid: 4.2\ndata: {"id":"job_…","status":"succeeded"}\n\n'
)
_STREAM: Final[dict[str, Any]] = {
    "description": "Events until the job is over. When it ends without `done`, connect again with `Last-Event-ID`.",
    "content": {"text/event-stream": {"schema": {"type": "string"}, "example": _EXAMPLE}},
}
LastEventId = Annotated[
    Annotated[str, WithJsonSchema({"type": "string", "pattern": f"^{ID_PATTERN}$"})] | None,
    Header(description="The id of the last event that was seen; what came after it is sent."),
]


@router.get(
    "/{job_id}/events",
    summary="Follow a job",
    response_class=Response,
    responses={
        **refusals(404, 410, 422),
        200: _STREAM,
        204: {"description": "`Last-Event-ID` is that of `done`: there will be nothing more."},
    },
    dependencies=[accepts_query()],
)
async def follow(
    request: Request, services: ServicesDep, caller: Reader, job_id: str, last_event_id: LastEventId = None
) -> Response:
    """Server-sent events: `status`, `progress`, `preview`, `output` and `done`.

    The first is the `status` now, with the job as a whole in `job`. From then on every `status` is sent once, of
    `progress` and `preview` the newest, at the end one `output` for each image and `done` with the job. After
    `Last-Event-ID` a stream goes on where another one ended, whichever process served that.
    """
    place = parse_place(request.headers.getlist("last-event-id"))
    sighting = await sight_job(services, caller, job_id, at_least=place[0] if place else 0)
    check_place(place, sighting.job)
    if has_all(place, sighting.job):
        return Response(status_code=204)
    means = Means(services.settings, services.database, services.room)
    return EventStream(means, sighting, Telling(base_url(request), place), is_head=is_head(request.scope))
