"""Endpoints of batches in SQL, on both databases: found, carried, told and forgotten."""

from typing import Any

from sqlalchemy import select, update

from common.db import webhooks as sql
from common.db.announcing import Event, announce_events
from common.db.due_groups import find_few_groups
from common.db.engine import Database
from common.db.forgetting import forget_deliveries, forget_own_webhooks
from common.db.tables import batches, deliveries, webhooks
from common.db.tenants import create_tenant
from common.db.types import after_now, now
from common.db.webhooks import NewWebhook, Sealed
from tests.endpoints import endpoint, rows_of, subscribe
from tests.making import submit
from tests.making_batches import make_batch

URL = "https://hooks.example/batch"
KINDS = ("batch.completed", "batch.canceled")


def wish(secret: bytes | None = b"own", **changes: Any) -> NewWebhook:
    sealed = None if secret is None else Sealed(secret)
    members: dict[str, Any] = {"url": URL, "events": KINDS, "sealed": sealed}
    return NewWebhook(**members | changes)


def of_batch(database: Database, batch_id: str, secret: bytes | None = b"own") -> str:
    with database.write() as connection:
        assert sql.insert_batch_webhook(connection, "default", batch_id, wish(secret))
        return str(connection.execute(select(webhooks.c.id).where(webhooks.c.batch_id == batch_id)).scalar_one())


def announce(database: Database, subject_id: str, kind: str, version: int = 3) -> int:
    with database.write() as connection:
        return announce_events(connection, [Event("default", subject_id, version, kind)])


def end_all(database: Database, seconds_ago: float) -> None:
    with database.write() as connection:
        ended = {"state": "delivered", "next_at": None, "ended_at": after_now(-seconds_ago)}
        connection.execute(update(deliveries).values(ended))


def test_it_is_found_with_its_owner_and_is_no_standing_one(database: Database) -> None:
    batch_id = make_batch(database)
    webhook_id = of_batch(database, batch_id)
    with database.read() as connection:
        found = sql.find_webhook(connection, "default", webhook_id)
        assert sql.list_webhooks(connection, "default", limit=10, after=None) == []
        assert sql.find_lender(connection, "default") is None
    assert found is not None
    assert (found.batch_id, found.job_id, found.url, found.events) == (batch_id, None, URL, KINDS)
    with database.write() as connection:
        assert not sql.delete_webhook(connection, "default", webhook_id)


def test_what_another_batch_needs_is_found_by_its_owner_alone(database: Database) -> None:
    batch_id = make_batch(database)
    of_batch(database, batch_id, b"mine")
    with database.write() as connection:
        create_tenant(connection, "other", "Other")
    bare = make_batch(database)
    with database.read() as connection:
        found = sql.find_batch_webhook(connection, "default", batch_id)
        assert sql.find_batch_webhook(connection, "other", batch_id) is None
        assert sql.find_batch_webhook(connection, "default", bare) is None
    assert found is not None
    assert (found.url, found.events, found.carried_from) == (URL, KINDS, batch_id)
    assert found.sealed == Sealed(b"mine")


def test_without_a_secret_it_borrows_or_is_refused(database: Database) -> None:
    bare = make_batch(database)
    with database.write() as connection:
        assert not sql.insert_batch_webhook(connection, "default", bare, wish(None))
    subscribe(database)
    webhook_id = of_batch(database, make_batch(database), None)
    assert endpoint(database, webhook_id).secret == b"sealed"


def test_a_carried_one_has_the_secret_of_the_moment_it_is_written(database: Database) -> None:
    first = make_batch(database)
    webhook_id = of_batch(database, first, b"old")
    with database.read() as connection:
        carried = sql.find_batch_webhook(connection, "default", first)
    assert carried is not None
    with database.write() as connection:
        sql.rotate_secret(connection, "default", webhook_id, b"new", keep_seconds=60)
    second = make_batch(database)
    with database.write() as connection:
        assert sql.insert_batch_webhook(connection, "default", second, carried)
        row = connection.execute(select(webhooks).where(webhooks.c.batch_id == second)).one()
    assert (row.secret, row.old_secret) == (b"new", b"old")


def test_one_that_borrowed_follows_a_rotation_of_the_lender(database: Database) -> None:
    lender = subscribe(database)
    borrower = of_batch(database, make_batch(database), None)
    with database.write() as connection:
        sql.rotate_secret(connection, "default", lender, b"new", keep_seconds=60)
    assert endpoint(database, borrower).secret == b"new"


def test_an_event_of_a_batch_goes_to_standing_endpoints_and_its_own(database: Database) -> None:
    batch_id, other = make_batch(database), make_batch(database)
    standing = subscribe(database)
    deaf = subscribe(database, events=["job.failed"])
    own = of_batch(database, batch_id)
    of_batch(database, other)
    assert announce(database, batch_id, "batch.completed") == 2
    told = rows_of(database, subject_id=batch_id)
    assert {row.webhook_id for row in told} == {standing, own}
    assert deaf not in {row.webhook_id for row in told}
    assert len({row.event_id for row in told}) == 1


def test_jobs_of_a_batch_are_told_to_standing_endpoints_and_not_to_the_batches(database: Database) -> None:
    batch_id = make_batch(database)
    standing = subscribe(database)
    of_batch(database, batch_id)
    job = submit(database, batch_id=batch_id)
    assert announce(database, job.id, "job.succeeded") == 1
    (row,) = rows_of(database, subject_id=job.id)
    assert row.webhook_id == standing


def test_endpoints_of_batches_at_one_host_fail_together(database: Database) -> None:
    failing, other = make_batch(database), make_batch(database)
    webhook_id = of_batch(database, failing)
    of_batch(database, other)
    announce(database, other, "batch.completed")
    with database.write() as connection:
        groups = find_few_groups(connection)
        assert groups
        assert not groups[0].is_failing
        connection.execute(update(webhooks).where(webhooks.c.id == webhook_id).values(failing_since=now()))
        groups = find_few_groups(connection)
        assert groups
        assert groups[0].is_failing


def test_it_is_forgotten_some_time_after_the_end_of_its_batch_with_its_last_delivery(database: Database) -> None:
    old, young, alive = (make_batch(database) for _ in range(3))
    standing = subscribe(database)
    endpoints = {one: of_batch(database, one) for one in (old, young, alive)}
    for one, seconds in ((old, -100), (young, 0)):
        ended = {"state": "completed", "finished_at": after_now(seconds)}
        with database.write() as connection:
            connection.execute(update(batches).where(batches.c.id == one).values(ended))
        announce(database, one, "batch.completed")
    end_all(database, 100)
    with database.write() as connection:
        forget_own_webhooks(connection, 50)
        assert set(connection.execute(select(webhooks.c.id)).scalars()) == {standing, *endpoints.values()}
        forget_deliveries(connection, 50)
        assert forget_own_webhooks(connection, 50) == ""
        assert set(connection.execute(select(webhooks.c.id)).scalars()) == {
            standing,
            endpoints[young],
            endpoints[alive],
        }
