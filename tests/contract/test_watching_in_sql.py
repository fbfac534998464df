"""Watching jobs, on both databases: marks that show every change, snapshots and histories that fit together."""

import itertools
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from sqlalchemy import update

from common.db import claims, edits, erasing, reports, watching
from common.db.engine import Database
from common.db.jobs import cancel_job, find_job
from common.db.tables import job_requests
from common.db.watching import Look, look_at_changes, read_events
from common.domain.job import ClaimedJob, Progress
from common.domain.lifecycle import JobState
from common.domain.watching import Mark, mark_of
from common.ids import new_id
from tests.making import claim, enlist, make_image, submit


def mark_now(database: Database, job_id: str) -> Mark:
    with database.read() as connection:
        job = find_job(connection, "default", job_id)
    assert job is not None
    return mark_of(job)


def look(database: Database, known: dict[str, Mark]) -> Look:
    with database.read() as connection:
        return look_at_changes(connection, known)


def a_life(database: Database, job_id: str) -> list[Callable[[Any], object]]:
    """Everything that can happen to a job until it succeeds, one after the other; each step takes a connection."""
    worker, held = enlist(database), list[ClaimedJob]()

    def take(connection: Any) -> None:
        wishes = {"device": "cpu", "pool": "default", "limit": 1, "lease_seconds": 30.0, "alone": True}
        held[:] = claims.claim(connection, worker_id=worker, **wishes)

    def report(step: int) -> Callable[[Any], object]:
        at = Progress("denoising", step, 4)
        return lambda c: reports.report_progress(c, "default", job_id, held[0].fence, step, at)

    return [
        lambda c: edits.edit_job(c, "default", job_id, edits.JobEdit(notes={"tags": ["x"]})),
        take,
        lambda c: claims.join(c, job_id, held[0].fence, "cpu"),
        report(1),
        report(2),
        lambda c: reports.report_preview(c, job_id, held[0].fence, b"one"),
        lambda c: reports.report_preview(c, job_id, held[0].fence, b"two"),
        lambda c: cancel_job(c, "default", job_id),
        lambda c: claims.finish(c, held[0], [make_image(held[0])], {}),
        lambda c: erasing.erase_job(c, "default", job_id),
    ]


def test_every_change_shows_and_no_change_shows_nothing(database: Database) -> None:
    job_id = submit(database).id
    known = mark_now(database, job_id)
    for number, step in enumerate(a_life(database, job_id)):
        with database.write() as connection:
            step(connection)
        found = look(database, {job_id: known})
        (job,) = found.changed
        assert known.is_older_than(mark_of(job)), number
        assert not mark_of(job).is_older_than(known), number
        known = mark_of(job)
        again = look(database, {job_id: known})
        assert (again.changed, again.events, again.missing, again.queries) == ([], {}, [], 1)


def test_the_events_of_a_look_go_on_where_the_last_one_stopped(database: Database) -> None:
    job_id = submit(database).id
    known, told = mark_now(database, job_id), [1]
    for step in a_life(database, job_id):
        with database.write() as connection:
            step(connection)
        found = look(database, {job_id: known})
        (job,) = found.changed
        told += [event.version for event in found.events.get(job_id, [])]
        known = mark_of(job)
        assert told == list(range(1, job.version + 1))


def test_transitions_that_a_look_has_missed_come_together_and_in_order(database: Database) -> None:
    job_id = submit(database).id
    known = mark_now(database, job_id)
    for step in a_life(database, job_id)[:9]:
        with database.write() as connection:
            step(connection)
    found = look(database, {job_id: known})

    assert [(event.version, event.kind, event.state) for event in found.events[job_id]] == [
        (2, "job.edited", JobState.QUEUED),
        (3, "job.claimed", JobState.RUNNING),
        (4, "job.started", JobState.RUNNING),
        (5, "job.succeeded", JobState.SUCCEEDED),
    ]
    assert [event.attempt for event in found.events[job_id]] == [0, 0, 1, 1]
    assert len(found.changed[0].images) == 1


def test_only_what_changed_is_read_and_a_thousand_are_one_query(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = [submit(database).id for _ in range(25)]
    known = {job_id: mark_now(database, job_id) for job_id in ids}
    with database.write() as connection:
        cancel_job(connection, "default", ids[7])
    assert look(database, known).queries == 5
    monkeypatch.setattr(watching, "IDS_A_QUERY", 10)
    found = look(database, known)
    assert (found.queries, [job.id for job in found.changed]) == (7, [ids[7]])


def test_more_changes_than_a_query_takes_are_all_found(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watching, "_JOBS_A_QUERY", 3)
    ids = [submit(database).id for _ in range(8)]
    known = {job_id: mark_now(database, job_id) for job_id in ids}
    with database.write() as connection:
        for job_id in ids:
            cancel_job(connection, "default", job_id)
    found = look(database, known)
    assert sorted(job.id for job in found.changed) == sorted(ids)
    assert {job_id: [event.version for event in events] for job_id, events in found.events.items()} == {
        job_id: [2] for job_id in ids
    }


def test_of_a_long_history_a_look_takes_the_end_and_pages_take_all(database: Database) -> None:
    job_id = submit(database).id
    known = mark_now(database, job_id)
    for number in range(70):
        with database.write() as connection:
            edits.edit_job(connection, "default", job_id, edits.JobEdit(notes={"tags": [str(number)]}))
    newest = [event.version for event in look(database, {job_id: known}).events[job_id]]
    assert newest == list(range(72 - watching.NEWEST_EVENTS, 72))

    paged, after = list[int](), 0
    for _ in itertools.repeat(None, 10):
        with database.read() as connection:
            page = read_events(connection, job_id, after=after, until=60, limit=25)
        if not page:
            break
        paged += [event.version for event in page]
        after = paged[-1]
    assert paged == list(range(1, 61))


def test_a_job_without_a_row_is_missing(database: Database) -> None:
    job_id, unknown = submit(database).id, new_id("job")
    mark = mark_now(database, job_id)
    assert look(database, {job_id: mark, unknown: mark}).missing == [unknown]


def test_a_job_that_this_release_cannot_read_hides_no_other(database: Database) -> None:
    ids = [submit(database).id for _ in range(3)]
    known = {job_id: mark_now(database, job_id) for job_id in ids}
    with database.write() as connection:
        for job_id in ids:
            cancel_job(connection, "default", job_id)
        unread = job_requests.c.job_id == ids[1]
        connection.execute(update(job_requests).where(unread).values(params={"of": "tomorrow"}))
    found = look(database, known)
    assert sorted(job.id for job in found.changed) == [ids[0], ids[2]]
    assert (list(found.unreadable), found.missing) == ([ids[1]], [])


def test_one_unreadable_job_among_hundreds_costs_few_queries(database: Database) -> None:
    ids = [submit(database).id for _ in range(100)]
    known = {job_id: replace(mark_now(database, job_id), version=0) for job_id in ids}
    with database.write() as connection:
        unread = job_requests.c.job_id == ids[70]
        connection.execute(update(job_requests).where(unread).values(params={"of": "tomorrow"}))
    found = look(database, known)
    assert (len(found.changed), list(found.unreadable)) == (99, [ids[70]])
    assert found.queries < 70


def test_the_erasure_of_a_running_job_is_newer_than_whatever_it_has_reported(database: Database) -> None:
    job_id, worker = submit(database).id, enlist(database)
    (held,) = claim(database, worker, limit=1)
    with database.write() as connection:
        claims.join(connection, job_id, held.fence, "cpu")
        reports.report_progress(connection, "default", job_id, held.fence, 7, Progress("denoising", 1, 4))
        reports.report_preview(connection, job_id, held.fence, b"one")
    before = mark_now(database, job_id)
    with database.write() as connection:
        erasing.erase_job(connection, "default", job_id)
    after = mark_now(database, job_id)
    assert before.is_older_than(after)
    assert not after.is_older_than(before)


def test_what_an_older_attempt_has_reported_shows_nothing(database: Database) -> None:
    job_id, worker = submit(database).id, enlist(database)
    (first,) = claim(database, worker, limit=1)
    with database.write() as connection:
        claims.join(connection, job_id, first.fence, "cpu")
        reports.report_progress(connection, "default", job_id, first.fence, 9, Progress("denoising", 3, 4))
        claims.hand_back(connection, job_id, first.fence, claims.TryAgain(0, refund=True))
    waiting = mark_now(database, job_id)
    assert look(database, {job_id: waiting}).changed == []
    (second,) = claim(database, worker, limit=1)
    known = mark_now(database, job_id)
    with database.write() as connection:
        reports.report_progress(connection, "default", job_id, first.fence, 10, Progress("denoising", 4, 4))
    assert (known.progress_seq, second.fence) == (0, 2)
    assert look(database, {job_id: known}).changed == []
