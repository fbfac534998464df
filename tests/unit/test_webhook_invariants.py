"""The checker of webhooks: silent on what couriers really did, and every hand-made breach is reported."""

import json
from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import delete, insert, select, update

from common.db import claims
from common.db.engine import Database
from common.db.jobs import cancel_job
from common.db.tables import deliveries, job_events, webhooks
from common.db.types import after_now
from common.domain.webhook_events import EVENTS
from common.ids import new_id
from tests.endpoints import rows_of, subscribe
from tests.faults.receiver import Received
from tests.faults.webhook_invariants import webhook_violations
from tests.making import claim, enlist, make_image, submit


class Told:
    """A job that succeeded and one that was cancelled, all of which was told to two endpoints and taken."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.paths = {subscribe(database, f"https://a.example/{name}", events=EVENTS): f"/{name}" for name in "ab"}
        self.won, self.gone = submit(database), submit(database)
        with database.write() as connection:
            cancel_job(connection, "default", self.gone.id)
        (job,) = claim(database, enlist(database))
        with database.write() as connection:
            claims.join(connection, job.id, job.fence, "cpu")
            claims.finish(connection, job, [make_image(job)], {})
            connection.execute(
                update(deliveries).values(state="delivered", ended_at=after_now(0), attempt=1, next_at=None)
            )
        states = {"job.started": "running", "job.succeeded": "succeeded", "job.canceled": "canceled"}
        self.received = [
            self.call(self.paths[row.webhook_id], row.event_id, row.subject_id, row.version, states[row.kind])
            for row in rows_of(database)
        ]

    def call(self, path: str, name: str, job_id: str, version: int, status: str, answer: int = 204) -> Received:
        body = json.dumps({"type": "t", "data": {"id": job_id, "version": version, "status": status}})
        return Received(path, {"webhook-id": name}, body, "127.0.0.1", answer, 1.0, 0.1, 10)

    def change(self, *statements: Any) -> None:
        with self.database.write() as connection:
            for statement in statements:
                connection.execute(statement)

    def found(self) -> list[str]:
        return list(webhook_violations(self.database, self.received))


@pytest.fixture
def told(sqlite_database: Database) -> Told:
    return Told(sqlite_database)


def test_what_was_told_once_or_again_is_no_violation(told: Told) -> None:
    assert len(told.received) == 6
    told.received.append(told.received[0])
    assert told.found() == []


def _one_more(told: Told) -> None:
    """A delivery of an event that never was."""
    (row, *_) = rows_of(told.database)
    values = {name: row._mapping[name] for name in row._mapping} | {"id": new_id("whd"), "event_id": "evt_never"}
    told.change(insert(deliveries).values(values))


def _second_end(told: Told) -> None:
    with told.database.read() as connection:
        row = connection.execute(select(job_events).where(job_events.c.kind == "job.canceled")).one()
    values = {name: row._mapping[name] for name in row._mapping if name != "id"} | {"version": 9}
    told.change(insert(job_events).values(values))


def _untold(told: Told) -> None:
    one = told.received[0]
    told.received[0] = told.call(one.path, one.event_id, one.data["id"], one.data["version"], "canceled", answer=500)


def _lie(told: Told) -> None:
    one = told.received[0]
    told.received[0] = told.call(one.path, one.event_id, one.data["id"], one.data["version"], "failed")


def _other_id(told: Told) -> None:
    one = told.received[0]
    told.received.append(told.call(one.path, "evt_other", one.data["id"], one.data["version"], one.data["status"]))


BREACHES: dict[str, tuple[str, Callable[[Told], Any]]] = {
    "a missing delivery": ("I4", lambda t: t.change(delete(deliveries).where(deliveries.c.kind == "job.started"))),
    "a delivery of nothing": ("I4", _one_more),
    "two events of one end": ("I4", _second_end),
    "an end without its event": (
        "I4",
        lambda t: t.change(delete(job_events).where(job_events.c.kind == "job.canceled")),
    ),
    "one that is under way": ("I4", lambda t: t.change(update(deliveries).values(state="pending"))),
    "one that was never taken": ("I4", _untold),
    "one event by two ids": ("I4", _other_id),
    "another state than the event's": ("I8", _lie),
}


@pytest.mark.parametrize("breach", BREACHES)
def test_a_breach_is_reported_under_its_invariant(told: Told, breach: str) -> None:
    invariant, do = BREACHES[breach]
    do(told)
    assert invariant in {violation.split()[0] for violation in told.found()}


def test_an_endpoint_that_came_later_or_is_disabled_is_promised_nothing(told: Told) -> None:
    subscribe(told.database, events=EVENTS)
    told.change(
        update(webhooks).where(webhooks.c.id == next(iter(told.paths))).values(disabled_at=after_now(0)),
        delete(deliveries).where(deliveries.c.webhook_id == next(iter(told.paths))),
    )
    told.received = [one for one in told.received if one.path == "/b"]
    assert told.found() == []
