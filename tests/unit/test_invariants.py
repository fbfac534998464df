"""The checker of the fault tests: on a hand-made history it is silent, and every hand-made violation is reported."""

import hashlib
import shutil
from collections.abc import Callable, Iterator
from copy import copy
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import delete, insert, update

from common.db import claims
from common.db.engine import Database
from common.db.migrate import migrate
from common.db.tables import (
    attempts,
    images,
    job_events,
    job_steps,
    jobs,
    object_refs,
    objects,
    tenants,
)
from common.db.types import after_now
from common.domain.job import ClaimedJob, StoredImage
from common.domain.lifecycle import JobState, Outcome
from common.domain.retry import TryAgain
from common.storage.local import LocalStore
from tests.faults.clients import History, Order, Polled, Submitted
from tests.faults.invariants import check, orphans, violations
from tests.making import claim, enlist, submit

PICTURE = b"a picture"
DIGEST = hashlib.sha256(PICTURE).hexdigest()


class World:
    """A database and a store at rest: a job that succeeded at its second attempt with two images, a cancelled one."""

    def __init__(self, folder: Path) -> None:
        self._open(folder)
        migrate(self.database)
        self.worker = enlist(self.database)
        self.won = self._succeed()
        self.gone = submit(self.database)
        self._cancel()
        self.database.close()

    def copied_to(self, folder: Path) -> "World":
        """Another one with the same rows and objects."""
        shutil.copytree(self.folder, folder, dirs_exist_ok=True)
        other = copy(self)
        other._open(folder)
        return other

    def _open(self, folder: Path) -> None:
        self.folder = folder
        self.database = Database(f"sqlite:///{folder / 'darkroom.db'}")
        self.store = LocalStore(folder / "store")
        self.acknowledged = [self.won.id, self.gone.id] if hasattr(self, "gone") else []
        self.history = History()

    def _succeed(self) -> ClaimedJob:
        submit(self.database, params={"num_images": 2})
        (first,) = claim(self.database, self.worker)
        with self.database.write() as connection:
            claims.join(connection, first.id, first.fence, "cpu")
            claims.hand_back(connection, first.id, first.fence, TryAgain(), "store_failed")
        self.store.put(self.key(first, 0), PICTURE, "image/png")
        (second,) = claim(self.database, self.worker)
        made = [self._image(second, index) for index in range(2)]
        with self.database.write() as connection:
            claims.join(connection, second.id, second.fence, "cpu")
            assert claims.finish(connection, second, made, {})
        return second

    def _image(self, job: ClaimedJob, index: int) -> StoredImage:
        self.store.put(self.key(job, index), PICTURE, "image/png")
        return StoredImage(index, self.key(job, index), 42, 64, 64, "image/png", len(PICTURE), DIGEST)

    def _cancel(self) -> None:
        (held,) = claim(self.database, self.worker)
        with self.database.write() as connection:
            assert claims.cancel_running(connection, held.id, held.fence)

    def key(self, job: ClaimedJob, index: int) -> str:
        return f"results/default/{job.id}/{job.fence}/{index}-{DIGEST[:16]}.png"

    def change(self, *statements: Any) -> None:
        """What no code of ours would do."""
        with self.database.engine.connect() as connection:
            connection.exec_driver_sql("PRAGMA ignore_check_constraints = ON")
            connection.exec_driver_sql("PRAGMA foreign_keys = OFF")
            connection.commit()
            for statement in statements:
                connection.execute(statement)
            connection.commit()

    def found(self) -> list[str]:
        return list(violations(self.database, self.store, self.acknowledged, history=self.history))


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> World:
    return World(tmp_path_factory.mktemp("world"))


@pytest.fixture
def world(built: World, tmp_path: Path) -> Iterator[World]:
    """Each test breaks its own."""
    own = built.copied_to(tmp_path)
    yield own
    own.database.close()


def test_a_history_without_faults_has_no_violation(world: World) -> None:
    world.history.add(Polled(1.0, world.won.id, 1, "queued"))
    world.history.add(Polled(2.0, world.won.id, 3, "running"))
    world.history.add(Polled(3.0, world.won.id, 7, "succeeded"))
    check(world.database, world.store, world.acknowledged, history=world.history)


def last_event(world: World) -> Any:
    return (job_events.c.job_id == world.won.id) & (job_events.c.kind == "job.succeeded")


def of_job(table: Any, world: World) -> Any:
    return table.c.job_id == world.won.id


def event(world: World, version: int, kind: str, **payload: object) -> Any:
    row = {"job_id": world.won.id, "tenant_id": "default", "version": version, "kind": kind, "payload": payload}
    return insert(job_events).values(row)


Breach = Callable[[World], object]

BREACHES: dict[str, tuple[str, Breach]] = {
    "an acknowledged job that is not there": ("I1", lambda w: w.acknowledged.append("job_nobody")),
    "a job that is not over": ("I1", lambda w: submit(w.database)),
    "a second terminal transition": (
        "I2",
        lambda w: w.change(event(w, 8, "job.failed", state="failed", move="fail")),
    ),
    "a move that there is not": (
        "I2",
        lambda w: w.change(
            update(job_events)
            .where(of_job(job_events, w), job_events.c.version == 4)
            .values(payload={"state": "queued", "move": "claim"})
        ),
    ),
    "an end that the job does not know of": (
        "I2",
        lambda w: w.change(update(jobs).where(jobs.c.id == w.won.id).values(state="canceled")),
    ),
    "an image too few": ("I3", lambda w: w.change(delete(images).where(images.c.index == 1))),
    "an image of a cancelled job": (
        "I3",
        lambda w: w.change(update(images).where(images.c.index == 1).values(job_id=w.gone.id, index=0)),
    ),
    "an image with another digest than its object": (
        "I3",
        lambda w: w.change(update(images).where(images.c.index == 1).values(sha256="00" * 32)),
    ),
    "a version without its event": (
        "I4",
        lambda w: w.change(delete(job_events).where(of_job(job_events, w), job_events.c.version == 3)),
    ),
    "an event of a version that the job has not reached": (
        "I4",
        lambda w: w.change(event(w, 8, "job.started", state="succeeded")),
    ),
    "an image of an attempt that did not win": (
        "I5",
        lambda w: w.change(update(images).where(images.c.index == 1).values(fence=1)),
    ),
    "two attempts that won": (
        "I5",
        lambda w: w.change(update(attempts).where(of_job(attempts, w)).values(outcome=Outcome.SUCCEEDED)),
    ),
    "an attempt that is left open": (
        "I5",
        lambda w: w.change(update(attempts).where(attempts.c.fence == 1).values(ended_at=None, outcome=None)),
    ),
    "a step of an attempt that never was": (
        "I5",
        lambda w: w.change(
            insert(job_steps).values(
                job_id=w.won.id, tenant_id="default", step=0, fence=9, key="steps/x", sha256="00" * 32
            )
        ),
    ),
    "a try too many": ("I6", lambda w: w.change(update(jobs).where(jobs.c.id == w.won.id).values(tries=3, fence=3))),
    "tries beyond the budget": ("I6", lambda w: w.change(update(jobs).values(max_tries=0))),
    "a claim without its attempt": (
        "I6",
        lambda w: w.change(delete(attempts).where(of_job(attempts, w), attempts.c.fence == 1)),
    ),
    "a join that the job did not count": (
        "I6",
        lambda w: w.change(update(attempts).where(of_job(attempts, w)).values(joined_at=None)),
    ),
    "a claim before the attempt before it had ended": (
        "I6",
        lambda w: w.change(update(attempts).where(attempts.c.fence == 1).values(ended_at=after_now(60))),
    ),
    "an outcome that is not the job's": (
        "I6",
        lambda w: w.change(
            update(attempts).where(attempts.c.job_id == w.gone.id).values(outcome=Outcome.SUCCEEDED, error_code=None)
        ),
    ),
    "a state that nobody can have seen": ("I8", lambda w: w.history.add(Polled(1.0, w.won.id, 7, "failed"))),
    "a version that went back": (
        "I8",
        lambda w: [w.history.add(Polled(at, w.won.id, version, "running")) for at, version in ((1.0, 3), (2.0, 2))],
    ),
    "a row without its object": ("I9", lambda w: w.store.delete(w.key(w.won, 0))),
    "an object with other bytes": ("I9", lambda w: w.store.put(w.key(w.won, 0), b"another", "image/png")),
    "a reference to an object that has no row": (
        "I9",
        lambda w: w.change(delete(objects).where(objects.c.key == w.key(w.won, 0))),
    ),
    "an image of another tenant": (
        "I10",
        lambda w: w.change(
            insert(tenants).values(id="other", name="other"),
            update(images).where(images.c.index == 1).values(tenant_id="other"),
        ),
    ),
    "a reference to an object of another tenant": (
        "I10",
        lambda w: w.change(
            insert(tenants).values(id="other", name="other"),
            update(objects).where(objects.c.key == w.key(w.won, 0)).values(tenant_id="other"),
        ),
    ),
}


@pytest.mark.parametrize("breach", BREACHES)
def test_a_breach_is_reported_under_its_invariant(world: World, breach: str) -> None:
    invariant, do = BREACHES[breach]
    do(world)
    assert invariant in {violation.split()[0] for violation in world.found()}


def test_all_violations_stand_in_one_error(world: World) -> None:
    world.acknowledged += ["job_one", "job_two"]
    with pytest.raises(AssertionError, match=r"2 violations:\nI1 job_one .*\nI1 job_two "):
        check(world.database, world.store, world.acknowledged)


def test_what_a_lost_attempt_stored_is_an_orphan(world: World) -> None:
    assert orphans(world.database, world.store) == [f"results/default/{world.won.id}/1/0-{DIGEST[:16]}.png"]


@pytest.mark.parametrize("key", ["inputs/default/abc.png", "results/default/job_nobody/1/0-abc.png"])
def test_an_object_without_a_row_that_no_attempt_made_is_a_violation(world: World, key: str) -> None:
    world.store.put(key, PICTURE, "image/png")
    assert world.found() == [f"I9 {key} has no row, and no attempt that lost has left it"]


def test_an_expired_job_has_no_images_any_more(world: World) -> None:
    mine = of_job(images, world)
    world.change(
        update(jobs).where(jobs.c.id == world.won.id).values(cleaned_at=after_now(0)),
        delete(images).where(mine),
        delete(object_refs).where(of_job(object_refs, world)),
        delete(objects),
    )
    for key in [one.key for one in world.store.list()]:
        world.store.delete(key)
    assert world.found() == []


def test_a_history_gives_back_what_was_promised() -> None:
    history, order = History(), Order("k", "p", 1, 1, 2, "normal")
    history.add(Submitted(1.0, "job_a", order))
    history.add(Polled(2.0, "job_a", 1, JobState.QUEUED))
    assert (history.submitted(), history.cancelled()) == ({"job_a": order}, set())
    assert history.seen() == {"job_a": [(1, "queued")]}
