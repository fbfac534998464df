"""Endpoints in SQL, on both databases: every call knows its tenant, and no secret is lost or kept too long."""

import threading
from typing import Any

import pytest
from sqlalchemy import delete, func, insert, select, update
from sqlalchemy.exc import SQLAlchemyError

from common.db import webhooks as sql
from common.db.announcing import Event, announce_events
from common.db.deliveries import list_deliveries
from common.db.engine import Database
from common.db.jobs import insert_job
from common.db.tables import deliveries, jobs, webhooks
from common.db.tenants import create_tenant
from common.db.types import after_now, now, read_clock
from common.db.webhooks import MAX_STANDING, NewWebhook, Sealed, Webhook
from common.domain.errors import Conflict
from common.ids import new_id
from tests.making import make_job, submit
from tests.waiting import wait_until

URL = "https://hooks.example/"


def wish(secret: bytes | None = b"one", **changes: Any) -> NewWebhook:
    sealed = None if secret is None else Sealed(secret)
    members: dict[str, Any] = {"url": URL, "events": ("job.succeeded", "job.failed"), "sealed": sealed}
    return NewWebhook(**members | changes)


def standing(database: Database, secret: bytes = b"one", tenant_id: str = "default") -> Webhook:
    with database.write() as connection:
        return sql.insert_webhook(connection, tenant_id, wish(secret))


def of_job(database: Database, secret: bytes | None = b"one", tenant_id: str = "default") -> str:
    """The id of a new job's endpoint."""
    job = make_job(tenant_id=tenant_id)
    with database.write() as connection:
        insert_job(connection, job)
        assert sql.insert_job_webhook(connection, tenant_id, job.id, wish(secret))
        return str(connection.execute(select(webhooks.c.id).where(webhooks.c.job_id == job.id)).scalar_one())


def look(database: Database, webhook_id: str) -> Webhook:
    with database.read() as connection:
        found = sql.find_webhook(connection, "default", webhook_id)
    assert found is not None
    return found


def secrets_of(database: Database, webhook_id: str) -> tuple[bytes, bytes | None]:
    with database.read() as connection:
        query = select(webhooks.c.secret, webhooks.c.old_secret).where(webhooks.c.id == webhook_id)
        row = connection.execute(query).one()
    return row.secret, row.old_secret


def rotate(database: Database, webhook_id: str, secret: bytes, keep_seconds: float = 86400) -> Webhook | None:
    with database.write() as connection:
        return sql.rotate_secret(connection, "default", webhook_id, secret, keep_seconds=keep_seconds)


def disable(database: Database, webhook_id: str) -> None:
    with database.write() as connection:
        values = {"disabled_at": now(), "disabled_reason": "failing", "failing_since": after_now(-99)}
        connection.execute(update(webhooks).where(webhooks.c.id == webhook_id).values(values))


@pytest.fixture
def other_tenant(database: Database) -> str:
    with database.write() as connection:
        create_tenant(connection, "other", "Other")
    return "other"


def test_an_endpoint_is_found_as_it_was_written(database: Database) -> None:
    with database.write() as connection:
        made = sql.insert_webhook(connection, "default", wish(description="shop"))

    assert look(database, made.id) == made
    assert (made.url, made.events, made.description) == (URL, ("job.succeeded", "job.failed"), "shop")
    assert (made.job_id, made.disabled_at, made.failing_since, made.old_secret_until) == (None, None, None, None)


def test_lists_hold_standing_endpoints_newest_first(database: Database, other_tenant: str) -> None:
    made = sorted((standing(database).id for _ in range(3)), reverse=True)
    of_job(database)
    standing(database, tenant_id=other_tenant)

    with database.read() as connection:
        first = sql.list_webhooks(connection, "default", limit=2, after=None)
        rest = sql.list_webhooks(connection, "default", limit=2, after=first[-1].id)
    assert [one.id for one in first + rest] == made


def test_every_call_takes_a_foreign_endpoint_for_none(database: Database, other_tenant: str) -> None:
    theirs, job_of_theirs = standing(database, tenant_id=other_tenant), of_job(database, tenant_id=other_tenant)
    disable(database, theirs.id)

    with database.write() as connection:
        for webhook_id in (theirs.id, job_of_theirs, new_id("whe")):
            assert sql.find_webhook(connection, "default", webhook_id) is None
            assert sql.rotate_secret(connection, "default", webhook_id, b"x", keep_seconds=1) is None
            assert sql.enable_webhook(connection, "default", webhook_id) is None
            assert not sql.delete_webhook(connection, "default", webhook_id)
        assert sql.find_lender(connection, "default") is None
        job_id = connection.execute(select(webhooks.c.job_id).where(webhooks.c.id == job_of_theirs)).scalar_one()
        assert sql.find_job_webhook(connection, "default", job_id) is None
        kept = sql.find_webhook(connection, other_tenant, theirs.id)
    assert kept is not None
    assert kept.disabled_reason == "failing"
    assert secrets_of(database, theirs.id) == (b"one", None)


def test_a_tenant_has_at_most_so_many_and_jobs_do_not_count(database: Database, other_tenant: str) -> None:
    of_job(database)
    for _ in range(MAX_STANDING):
        standing(database)

    with pytest.raises(Conflict, match="delete one first"):
        standing(database)
    of_job(database)
    standing(database, tenant_id=other_tenant)


def test_two_at_once_do_not_pass_the_limit(postgres_database: Database) -> None:
    database = postgres_database
    for _ in range(MAX_STANDING - 1):
        standing(database)
    outcomes: list[str] = []

    def insert_one_more() -> None:
        try:
            standing(database)
            outcomes.append("made")
        except Conflict:
            outcomes.append("refused")

    late = threading.Thread(target=insert_one_more)
    with database.write() as connection:
        sql.insert_webhook(connection, "default", wish())
        late.start()
        wait_until(lambda: _waits(database) or outcomes, what="the second, behind the first")
    late.join()

    assert outcomes == ["refused"]


def test_making_one_waits_for_no_job(postgres_database: Database) -> None:
    with postgres_database.write() as connection:
        sql.insert_webhook(connection, "default", wish())
        submit(postgres_database)


def test_deleting_takes_the_deliveries_along(database: Database) -> None:
    made, kept = standing(database), standing(database)
    job = submit(database)
    with database.write() as connection:
        assert announce_events(connection, [Event("default", job.id, 3, "job.failed")]) == 2
        assert sql.delete_webhook(connection, "default", made.id)
        assert not sql.delete_webhook(connection, "default", made.id)
        left = list_deliveries(connection, "default", limit=9, after=None, filters={})
    assert [one.webhook_id for one in left] == [kept.id]


def test_the_endpoint_of_a_job_goes_with_its_job_only(database: Database) -> None:
    webhook_id = of_job(database)
    with database.write() as connection:
        assert not sql.delete_webhook(connection, "default", webhook_id)
        connection.execute(delete(jobs).where(jobs.c.id == look(database, webhook_id).job_id))
        assert sql.find_webhook(connection, "default", webhook_id) is None


def test_a_replaced_secret_stays_for_a_while_and_the_one_before_it_goes(database: Database) -> None:
    made = standing(database, b"one")

    rotated = rotate(database, made.id, b"two")

    assert rotated is not None
    assert rotated.old_secret_until is not None
    with database.read() as connection:
        left = (rotated.old_secret_until - read_clock(connection)).total_seconds()
    assert left == pytest.approx(86400, abs=60)
    assert secrets_of(database, made.id) == (b"two", b"one")
    rotate(database, made.id, b"three")
    assert secrets_of(database, made.id) == (b"three", b"two")


def test_a_rotation_that_is_over_is_not_shown(database: Database) -> None:
    made = standing(database)

    rotated = rotate(database, made.id, b"two", keep_seconds=0)

    assert rotated is not None
    assert rotated.old_secret_until is None


def test_the_newest_enabled_standing_endpoint_lends_its_secrets(database: Database) -> None:
    with database.read() as connection:
        assert sql.find_lender(connection, "default") is None
    of_job(database, b"of a job")
    oldest = standing(database, b"oldest")
    newest = standing(database, b"newest")
    rotate(database, newest.id, b"rotated")

    with database.write() as connection:
        lent = sql.find_lender(connection, "default", hold=True)
    assert lent is not None
    assert (lent.secret, lent.old) == (b"rotated", b"newest")
    assert secrets_of(database, of_job(database, None)) == (b"rotated", b"newest")
    disable(database, newest.id)
    assert secrets_of(database, of_job(database, None)) == (b"oldest", None)
    disable(database, oldest.id)
    job = make_job()
    with database.write() as connection:
        insert_job(connection, job)
        assert not sql.insert_job_webhook(connection, "default", job.id, wish(None))


def test_a_rotation_reaches_those_who_borrowed_and_nobody_else(database: Database, other_tenant: str) -> None:
    lender = standing(database, b"one")
    borrower, own, foreign = (
        of_job(database, None),
        of_job(database, b"own"),
        of_job(database, b"one", tenant_id=other_tenant),
    )

    rotate(database, lender.id, b"two")
    rotate(database, borrower, b"three")

    assert secrets_of(database, lender.id) == (b"two", b"one")
    assert secrets_of(database, borrower) == (b"three", b"two")
    assert (secrets_of(database, own), secrets_of(database, foreign)) == ((b"own", None), (b"one", None))


def test_a_rotation_waits_for_a_submit_that_borrows_and_reaches_it(postgres_database: Database) -> None:
    """Else the job would sign with a secret that its receiver has long thrown away."""
    database, job = postgres_database, make_job()
    lender = standing(database, b"one")
    rotation = threading.Thread(target=rotate, args=(database, lender.id, b"two"))

    with database.write() as connection:
        insert_job(connection, job)
        assert sql.insert_job_webhook(connection, "default", job.id, wish(None))
        rotation.start()
        wait_until(lambda: _waits(database), what="a rotation that waits")
    rotation.join()

    with database.read() as connection:
        carried = sql.find_job_webhook(connection, "default", job.id)
    assert carried is not None
    assert carried.sealed is not None
    assert (carried.sealed.secret, carried.sealed.old) == (b"two", b"one")


def test_a_retry_has_the_secrets_that_its_first_job_has_when_it_is_written(database: Database) -> None:
    lender = standing(database, b"one")
    first, own = of_job(database, None), of_job(database, b"own")
    with database.read() as connection:
        carried = [sql.find_job_webhook(connection, "default", str(look(database, one).job_id)) for one in (first, own)]
    rotate(database, lender.id, b"two")
    rotate(database, own, b"own two")

    made = [carry(database, one) for one in carried]

    assert [secrets_of(database, one) for one in made] == [(b"two", b"one"), (b"own two", b"own")]
    rotate(database, lender.id, b"three")
    assert secrets_of(database, made[0]) == (b"three", b"two")


def test_a_retry_keeps_the_secrets_of_an_endpoint_that_was_forgotten_meanwhile(database: Database) -> None:
    first = of_job(database, b"one")
    with database.read() as connection:
        carried = sql.find_job_webhook(connection, "default", str(look(database, first).job_id))
    with database.write() as connection:
        connection.execute(delete(webhooks))

    assert secrets_of(database, carry(database, carried)) == (b"one", None)


def test_a_rotation_waits_for_a_retry_that_carries_what_was_borrowed_and_reaches_it(
    postgres_database: Database,
) -> None:
    database, job = postgres_database, make_job()
    lender = standing(database, b"one")
    first = of_job(database, None)
    rotation = threading.Thread(target=rotate, args=(database, lender.id, b"two"))

    with database.write() as connection:
        carried = sql.find_job_webhook(connection, "default", str(look(database, first).job_id))
        assert carried is not None
        insert_job(connection, job)
        assert sql.insert_job_webhook(connection, "default", job.id, carried)
        rotation.start()
        wait_until(lambda: _waits(database), what="a rotation that waits")
    rotation.join()

    with database.read() as connection:
        rows = connection.execute(select(webhooks.c.secret, webhooks.c.old_secret)).all()
    assert [tuple(row) for row in rows] == [(b"two", b"one")] * 3


def carry(database: Database, carried: NewWebhook | None) -> str:
    """The id of a new job's endpoint, carried over."""
    assert carried is not None
    job = make_job()
    with database.write() as connection:
        insert_job(connection, job)
        assert sql.insert_job_webhook(connection, "default", job.id, carried)
        return str(connection.execute(select(webhooks.c.id).where(webhooks.c.job_id == job.id)).scalar_one())


def _waits(database: Database) -> bool:
    with database.read() as connection:
        query = "SELECT count(*) FROM pg_locks WHERE NOT granted"
        return bool(connection.exec_driver_sql(query).scalar_one())


def test_the_endpoint_of_a_job_can_be_given_to_another(database: Database) -> None:
    first = of_job(database, b"one")
    rotate(database, first, b"two")
    job_id = look(database, first).job_id
    assert job_id is not None

    with database.write() as connection:
        carried = sql.find_job_webhook(connection, "default", job_id)
        assert carried is not None
        job = make_job()
        insert_job(connection, job)
        assert sql.insert_job_webhook(connection, "default", job.id, carried)
        query = select(webhooks).where(webhooks.c.job_id == job.id)
        row = connection.execute(query).one()
    assert (row.url, row.events, row.secret, row.old_secret) == (URL, ["job.succeeded", "job.failed"], b"two", b"one")
    assert row.old_secret_until == look(database, first).old_secret_until


def test_enabling_forgets_what_disabled_it(database: Database) -> None:
    made = standing(database)
    disable(database, made.id)
    shown = look(database, made.id)

    with database.write() as connection:
        enabled = sql.enable_webhook(connection, "default", made.id)

    assert (shown.disabled_reason, shown.disabled_at is None) == ("failing", False)
    assert enabled == made


def test_an_endpoint_and_its_job_are_written_together_or_not_at_all(database: Database) -> None:
    job = make_job()

    def write_both_and_fail() -> None:
        with database.write() as connection:
            insert_job(connection, job)
            assert sql.insert_job_webhook(connection, "default", job.id, wish())
            connection.execute(insert(deliveries).values(id="x"))

    with pytest.raises(SQLAlchemyError):
        write_both_and_fail()
    with database.read() as connection:
        for table in (jobs, webhooks):
            assert connection.execute(select(func.count()).select_from(table)).scalar_one() == 0
