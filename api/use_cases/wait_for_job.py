"""Waiting for a job without asking the database: one poller looks at it for all who wait."""

import asyncio
from collections.abc import Callable

from anyio import to_thread
from starlette.types import Receive

from api.dependencies import Services
from api.live.room import WaitingRoom
from api.live.watched import Sighting
from api.use_cases.look_up import require_job
from common.db.tenants import Caller
from common.db.watching import read_events
from common.domain.errors import NotFound
from common.domain.outlook import UNKNOWN, Outlook
from common.domain.snapshot import JobSnapshot

Known = tuple[JobSnapshot, Outlook]


async def sight_job(services: Services, caller: Caller, job_id: str, *, at_least: int = 0) -> Sighting:
    """The caller's job as it was half a second ago at most; as it is now if it was not at this version yet by then.

    Raises `NotFound`, or `Unavailable`.
    """
    fresh = await services.room.await_fresh(caller.tenant_id, job_id)
    if fresh is not None and fresh.job.version >= at_least:
        return fresh
    return await to_thread.run_sync(_look, services, caller, job_id, services.room.clock())


async def wait_for_job(
    room: WaitingRoom,
    sighting: Sighting,
    receive: Receive,
    *,
    seconds: float,
    is_news: Callable[[JobSnapshot], bool],
) -> Known:
    """The job once it is news, is over, or so many seconds have passed; at once when the process ends.

    Holds no thread. Raises `Unavailable` when too many wait already, and `NotFound` (`gone`) for a job that is erased
    meanwhile. While the database is away the job stays as it was last seen.
    """
    if seconds <= 0 or sighting.job.state.is_terminal or is_news(sighting.job):
        return sighting.job, sighting.outlook
    until = asyncio.get_running_loop().time() + seconds
    with room.waiting("poll", sighting) as (watched, waiter):
        del sighting  # a waiting connection holds no snapshot of its own
        client = asyncio.ensure_future(waiter.watch_client(receive))
        try:
            while not (watched.is_over or is_news(watched.job) or room.is_closing or waiter.has_left):
                remaining = until - asyncio.get_running_loop().time()
                if remaining <= 0:
                    break
                await waiter.wait(remaining)
        finally:
            client.cancel()
    if watched.is_gone or watched.mark.is_erased:
        raise NotFound("the job has been erased", code="gone")
    return watched.job, watched.outlook


async def wait_for_end(
    room: WaitingRoom, job: JobSnapshot, receive: Receive, *, seconds: float, seen_at: float
) -> JobSnapshot | None:
    """A job that was just accepted, as it is once it is over or so many seconds have passed.

    `seen_at`: a moment of the room's clock at which it was as it is given, or one before that.
    None when too many wait already: the job is accepted all the same. Raises `NotFound` as `wait_for_job` does.
    """
    if room.is_full:
        return None
    sighting = Sighting(job, (), UNKNOWN, seen_at)
    found, _ = await wait_for_job(room, sighting, receive, seconds=seconds, is_news=lambda job: False)
    return found


def _look(services: Services, caller: Caller, job_id: str, moment: float) -> Sighting:
    with services.database.read() as connection:
        job = require_job(connection, caller.tenant_id, job_id)
        events = read_events(connection, job_id, after=job.version - 1, until=job.version, limit=1)
    return Sighting(job, events, services.outlooks.of(job), moment)
