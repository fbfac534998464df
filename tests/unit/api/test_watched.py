"""What the waiters of one job share: of two looks the newer one counts, and no transition is left out in between."""

import asyncio
from dataclasses import replace
from datetime import UTC, datetime
from threading import Event

import pytest

from api.live.room import WaitingRoom
from api.live.telling import Telling
from api.live.watched import Sighting, Watched
from api.metrics import Metrics
from common.db.engine import Database
from common.db.jobs import find_job
from common.domain.lifecycle import JobState
from common.domain.outlook import UNKNOWN, Outlook
from common.domain.snapshot import JobSnapshot
from common.domain.watching import JobEvent
from tests.making import submit

NOW = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.fixture
def job(database: Database) -> JobSnapshot:
    job_id = submit(database).id
    with database.read() as connection:
        found = find_job(connection, "default", job_id)
    assert found is not None
    return found


def events(job: JobSnapshot, *versions: int) -> list[JobEvent]:
    return [JobEvent(job.id, version, "job.edited", JobState.QUEUED, 0, None, NOW) for version in versions]


def watched(job: JobSnapshot, *versions: int) -> Watched:
    return Watched.of(Sighting(job, events(job, *versions), UNKNOWN, 0.0))


def versions(found: list[JobEvent] | None) -> list[int] | None:
    return None if found is None else [event.version for event in found]


def test_looks_that_come_in_the_wrong_order_leave_the_newest(job: JobSnapshot) -> None:
    seen = watched(job, 1)
    assert seen.take(replace(job, version=3, progress_seq=5), events(job, 2, 3), 1.0)
    for older in ({"version": 2}, {"version": 3, "progress_seq": 4}, {"version": 3, "progress_seq": 5}):
        assert not seen.take(replace(job, **older), events(job, 2), 2.0)
    assert (seen.job.version, seen.job.progress_seq, seen.seen_at) == (3, 5, 1.0)
    assert seen.take(replace(job, version=3, progress_seq=5, cancel_requested=True), [], 3.0)


def test_events_reach_back_as_far_as_they_have_no_gap(job: JobSnapshot) -> None:
    seen = watched(job, 1)
    seen.take(replace(job, version=3), events(job, 2, 3), 1.0)
    assert [versions(seen.events_after(after)) for after in (3, 2, 1, 0)] == [[], [3], [2, 3], [1, 2, 3]]
    seen.take(replace(job, version=9), events(job, 8, 9), 2.0)
    assert [versions(seen.events_after(after)) for after in (8, 7, 6, 3)] == [[9], [8, 9], None, None]
    seen.take(replace(job, version=11), events(job, 10), 3.0)
    assert seen.events_after(10) is None


def test_what_is_kept_is_bounded(job: JobSnapshot) -> None:
    seen = watched(job, 1)
    for version in range(2, 500):
        seen.take(replace(job, version=version), events(job, version), 1.0)
    assert len(seen.events) == 50
    assert versions(seen.events_after(490)) == list(range(491, 500))


def test_a_place_in_the_queue_that_has_not_changed_wakes_nobody(job: JobSnapshot) -> None:
    seen = watched(job, 1)
    room = WaitingRoom(9, Metrics())

    async def scene() -> list[bool]:
        found = []
        with room.waiting("poll", Sighting(job, [], UNKNOWN, 0.0)) as (mine, waiter):
            for outlook in (Outlook(3), Outlook(3, start_seconds=9.0), Outlook(2)):
                mine.expect(outlook)
                found.append(waiter._event.is_set())
                waiter._event.clear()
        return found

    assert asyncio.run(scene()) == [True, False, True]
    assert seen.outlook is UNKNOWN


def test_progress_is_told_once_for_each_change_and_never_an_older_one(job: JobSnapshot) -> None:
    telling = Telling("http://127.0.0.1")
    telling.tell(job, events(job, 1), UNKNOWN, NOW)
    running = replace(job, state=JobState.RUNNING)

    def told(seq: int, outlook: Outlook = UNKNOWN) -> bool:
        return bool(telling.tell(replace(running, progress_seq=seq), [], outlook, NOW))

    assert [told(seq) for seq in (1, 1, 4, 3, 4, 5)] == [True, False, True, False, False, True]
    assert telling.place == (1, 5)


def test_the_room_closes_a_while_after_the_process_was_asked_to_stop(job: JobSnapshot) -> None:
    async def scene() -> tuple[bool, bool]:
        room, draining = WaitingRoom(9, Metrics()), Event()
        closing = asyncio.ensure_future(room.close_after(draining, 0.3))
        with room.waiting("poll", Sighting(job, [], UNKNOWN, 0.0)) as (_, waiter):
            draining.set()
            await waiter.wait(0.2)
            was_closing = room.is_closing
            await waiter.wait(10)
            await closing
            return was_closing, room.is_closing

    assert asyncio.run(scene()) == (False, True)
