"""What goes from the store and when: expired, erased and orphaned objects, on both databases and a real folder."""

import os
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import insert, select, update

from common import failpoints
from common.db import chains, claims
from common.db.cleaning import mark_expired, mark_orphans
from common.db.engine import Database
from common.db.jobs import insert_job
from common.db.objects import announce, announce_again, keep_input
from common.db.tables import images, jobs, object_refs, objects
from common.db.types import after_now
from common.db.uploads import delete_upload, forget_expired, insert_pending, insert_ready
from common.domain.job import ClaimedJob, DoneStep, InputRef, NewJob
from common.ids import new_id
from common.settings import Settings
from common.storage.keys import parse_key
from common.storage.local import LocalStore
from common.storage.port import StoreUnavailable
from sweeper.cleaner import OWNER_KEY, Cleaner
from tests.making import claim, enlist, make_image, make_job

SHA = "ab" * 32
INPUT = InputRef(f"inputs/default/{SHA}.png", SHA, 3, 64, 64)


class Darkroom:
    """A database, a folder, and a cleaner at both."""

    def __init__(self, database: Database, folder: Path) -> None:
        self.database = database
        self.folder = folder
        self.store = LocalStore(folder)
        self.cleaner = Cleaner(Settings(_env_file=None, data_dir=folder), database, lambda: self.store)

    def submit(self, **changes: Any) -> NewJob:
        self.store.put(INPUT.key, b"abc", "image/png")
        job = make_job(inputs={"image": INPUT}, **changes)
        with self.database.write() as connection:
            insert_job(connection, job)
        return job

    def claim(self) -> ClaimedJob:
        (job,) = claim(self.database, enlist(self.database), limit=1)
        return job

    def finish(self) -> ClaimedJob:
        """The next job, done, with an image and a step of a chain."""
        job, image = self.claim(), None
        image = make_image(job)
        step = f"steps/default/{job.id}/{job.fence}/0-abc.safetensors"
        for key in (image.key, step):
            self.store.put(key, b"abc", "image/png")
        with self.database.write() as connection:
            assert chains.record_step(connection, job, DoneStep(0, step, SHA), 3)
            assert claims.finish(connection, job, [image], {})
        return job

    def expire(self, job_id: str) -> None:
        with self.database.write() as connection:
            connection.execute(update(jobs).where(jobs.c.id == job_id).values(expires_at=after_now(-1)))

    def keys(self) -> set[str]:
        return {one.key for one in self.store.list()} - {OWNER_KEY}

    def rows(self) -> dict[str, str]:
        with self.database.read() as connection:
            return {row.key: row.state for row in connection.execute(select(objects.c.key, objects.c.state))}

    def put_old(self, key: str) -> None:
        """An object that was written two days ago."""
        self.store.put(key, b"abc", "image/png")
        moment = time.time() - 2 * 86400
        os.utime(self.folder / key, (moment, moment))


@pytest.fixture
def darkroom(database: Database, tmp_path: Path) -> Darkroom:
    return Darkroom(database, tmp_path / "store")


def test_an_expired_job_takes_its_results_steps_and_input_along(darkroom: Darkroom) -> None:
    darkroom.submit()
    job = darkroom.finish()
    assert darkroom.cleaner.run_once() == 0
    assert len(darkroom.keys()) == len(darkroom.rows()) == 3
    darkroom.expire(job.id)
    assert darkroom.cleaner.run_once() == 3
    assert (darkroom.keys(), darkroom.rows()) == (set(), {})
    with darkroom.database.read() as connection:
        assert connection.execute(select(images)).all() == connection.execute(select(object_refs)).all() == []
        assert connection.execute(select(jobs.c.cleaned_at)).scalar_one() is not None
    assert darkroom.cleaner.run_once() == 0


def test_an_input_stays_while_another_job_needs_it(darkroom: Darkroom) -> None:
    darkroom.submit()
    job = darkroom.finish()
    waiting = darkroom.submit()
    darkroom.expire(job.id)
    darkroom.cleaner.run_once()
    assert darkroom.keys() == {INPUT.key} == set(darkroom.rows())
    with darkroom.database.write() as connection:  # a job that is not terminal has no expiry, whatever stands there
        connection.execute(update(jobs).where(jobs.c.id == waiting.id).values(expires_at=after_now(-1)))
    darkroom.cleaner.run_once()
    assert darkroom.keys() == {INPUT.key}


def test_an_input_outlives_its_upload_as_long_as_a_job_needs_it_and_its_jobs_as_long_as_an_upload_does(
    darkroom: Darkroom,
) -> None:
    with darkroom.database.write() as connection:
        insert_ready(connection, "default", new_id("upl"), INPUT, life_seconds=-1)
    darkroom.submit()
    darkroom.cleaner.run_once()
    assert darkroom.keys() == {INPUT.key}
    with darkroom.database.write() as connection:
        insert_ready(connection, "default", new_id("upl"), INPUT, life_seconds=60)
    darkroom.expire(darkroom.finish().id)
    darkroom.cleaner.run_once()
    assert darkroom.keys() == {INPUT.key}
    with darkroom.database.write() as connection:
        connection.execute(update(objects).values(expires_at=after_now(-1)))
    darkroom.cleaner.run_once()
    assert (darkroom.keys(), darkroom.rows()) == (set(), {})


def test_old_objects_without_a_row_go_but_not_those_of_an_attempt_that_runs_nor_what_is_not_ours(
    darkroom: Darkroom,
) -> None:
    darkroom.submit()
    job = darkroom.claim()
    running, lost = make_image(job).key, f"results/default/{new_id('job')}/1/0-abc.png"
    young, theirs = f"results/default/{new_id('job')}/1/1-abc.png", "backups/default/2026.png"
    stranger = f"inputs/nobody/{SHA}.png"
    for key in (running, lost, theirs, stranger):
        darkroom.put_old(key)
    darkroom.store.put(young, b"abc", "image/png")
    assert darkroom.cleaner.run_once() == 1
    assert darkroom.keys() == {INPUT.key, running, young, theirs, stranger}


def test_the_listing_is_worked_off_page_by_page_and_begins_anew(
    darkroom: Darkroom, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sweeper.cleaner._LISTED", 2)
    for number in range(5):
        darkroom.put_old(f"results/default/{new_id('job')}/1/{number}-abc.png")
    assert sum(darkroom.cleaner.run_once() for _ in range(3)) == 5
    darkroom.put_old(f"results/default/{new_id('job')}/1/0-abc.png")
    assert darkroom.cleaner.run_once() == 1


def test_who_announces_an_object_that_is_marked_keeps_it(darkroom: Darkroom) -> None:
    darkroom.store.put(INPUT.key, b"abc", "image/png")
    with darkroom.database.write() as connection:
        keep_input(connection, "default", INPUT, expires_seconds=-1)
        assert mark_expired(connection) == 1
        assert not announce_again(connection, "default", INPUT.key)
        announce(connection, "default", INPUT)
        assert announce_again(connection, "default", INPUT.key)
        assert not announce_again(connection, "other", INPUT.key)
    assert darkroom.cleaner.run_once() == 0
    assert darkroom.keys() == {INPUT.key}


def test_what_was_announced_and_never_used_goes(darkroom: Darkroom) -> None:
    with darkroom.database.write() as connection:
        announce(connection, "default", INPUT)  # and then the process died before it stored anything
        connection.execute(update(objects).values(expires_at=after_now(-1)))
    assert darkroom.cleaner.run_once() == 1
    assert darkroom.rows() == {}


def test_a_reference_that_came_after_the_mark_turns_it_back(darkroom: Darkroom) -> None:
    job = darkroom.submit()
    with darkroom.database.write() as connection:
        connection.execute(update(objects).values(state="deleting"))
    assert darkroom.cleaner.run_once() == 0
    assert (darkroom.keys(), darkroom.rows()) == ({INPUT.key}, {INPUT.key: "live"})
    assert job.inputs["image"] == INPUT


def test_a_cleaner_that_dies_between_object_and_row_leaves_both_to_the_next(darkroom: Darkroom) -> None:
    darkroom.submit()
    darkroom.expire(darkroom.finish().id)
    failpoints.arm("cleaner.deleting:error")
    assert darkroom.cleaner.run_once() == 0
    failpoints.arm("")
    assert darkroom.keys() == set()
    assert list(darkroom.rows().values()) == ["deleting"] * 3
    assert darkroom.cleaner.run_once() == 3
    assert (darkroom.keys(), darkroom.rows()) == (set(), {})


def test_a_store_that_is_away_keeps_what_is_marked_for_later(
    darkroom: Darkroom, monkeypatch: pytest.MonkeyPatch
) -> None:
    darkroom.submit()
    darkroom.expire(darkroom.finish().id)

    def be_away(key: str) -> None:
        raise StoreUnavailable(key, "away")

    with monkeypatch.context() as patch:
        patch.setattr(darkroom.store, "delete", be_away)
        assert darkroom.cleaner.run_once() == 0
    assert darkroom.cleaner.run_once() == 3


def test_objects_that_cannot_be_removed_hold_up_none_behind_them(
    darkroom: Darkroom, monkeypatch: pytest.MonkeyPatch
) -> None:
    doomed = [f"results/default/{new_id('job')}/1/{k}-abc.png" for k in range(9)]
    common = {"tenant_id": "default", "state": "deleting", "kind": "result", "sha256": SHA, "bytes": 3}
    with darkroom.database.write() as connection:
        connection.execute(insert(objects).values(**common), [{"key": key} for key in doomed])
    locked, delete = set(sorted(doomed)[:6]), darkroom.store.delete

    def refuse(key: str) -> None:
        if key in locked:
            raise PermissionError(key)
        delete(key)

    monkeypatch.setattr(darkroom.store, "delete", refuse)
    assert [darkroom.cleaner.run_once() for _ in range(2)] == [0, 3]
    assert set(darkroom.rows()) == locked


def test_a_store_of_another_installation_is_not_tidied(darkroom: Darkroom, database: Database) -> None:
    lost = f"results/default/{new_id('job')}/1/0-abc.png"
    darkroom.put_old(lost)
    darkroom.store.put(OWNER_KEY, b"a Darkroom of 2001-01-01T00:00:00.000Z", "text/plain")
    assert darkroom.cleaner.run_once() == 0
    darkroom.store.delete(OWNER_KEY)
    assert darkroom.cleaner.run_once() == 1


def test_a_submit_that_has_announced_its_picture_keeps_it_when_the_upload_is_deleted_under_it(
    darkroom: Darkroom,
) -> None:
    darkroom.store.put(INPUT.key, b"abc", "image/png")
    upload_id = new_id("upl")
    with darkroom.database.write() as connection:
        insert_ready(connection, "default", upload_id, INPUT, life_seconds=86400)
        assert announce_again(connection, "default", INPUT.key)
    with darkroom.database.write() as connection:
        delete_upload(connection, "default", upload_id)
    assert darkroom.cleaner.run_once() == 0
    assert darkroom.keys() == {INPUT.key}


def test_who_announces_an_orphan_gives_it_its_facts(darkroom: Darkroom) -> None:
    darkroom.put_old(INPUT.key)
    with darkroom.database.write() as connection:
        assert mark_orphans(connection, [parts for parts in [parse_key(INPUT.key)] if parts]) == 1
        announce(connection, "default", INPUT)
        row = connection.execute(select(objects)).one()
    assert (row.state, row.kind, row.sha256, row.bytes, row.width) == ("live", "input", SHA, 3, 64)


def test_files_of_forgotten_uploads_go(darkroom: Darkroom) -> None:
    upload_id = new_id("upl")
    key = f"uploads/default/{upload_id}"
    darkroom.put_old(key)
    with darkroom.database.write() as connection:
        declared = {"declared_bytes": 3, "declared_sha256": SHA}
        insert_pending(connection, "default", upload_id, staging_key=key, life_seconds=60, **declared)  # type: ignore[arg-type]
    assert darkroom.cleaner.run_once() == 0  # it is awaited: no orphan
    with darkroom.database.write() as connection:
        connection.exec_driver_sql("UPDATE uploads SET expires_at = created_at")
        assert forget_expired(connection) == 1
    assert darkroom.cleaner.run_once() == 1
    assert darkroom.keys() == set()


def test_several_cleaners_at_once_remove_everything_once(darkroom: Darkroom) -> None:
    doomed = [{"key": f"results/default/{new_id('job')}/1/{k}-abc.png"} for k in range(60)]
    common = {"tenant_id": "default", "state": "live", "kind": "result", "sha256": SHA, "bytes": 3}
    with darkroom.database.write() as connection:
        connection.execute(insert(objects).values(expires_at=after_now(-1), **common), doomed)
    removed: list[int] = []
    threads = [threading.Thread(target=lambda: removed.append(darkroom.cleaner.run_once())) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert sum(removed) == 60
    assert darkroom.rows() == {}
