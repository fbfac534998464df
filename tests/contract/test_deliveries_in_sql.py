"""Deliveries on both databases: written with the transition, sent again on request, erased and forgotten."""

from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import event, insert, select, update

from common.clock import utc_now
from common.db import claims, rescue
from common.db.deliveries import announce_test, find_delivery, list_deliveries, redeliver, redeliver_many
from common.db.engine import Database
from common.db.erasing import erase_job
from common.db.forgetting import forget_deliveries, forget_own_webhooks
from common.db.jobs import cancel_job, insert_job
from common.db.outcomes import scrub_deliveries
from common.db.tables import deliveries, jobs, tenants, webhooks
from common.db.types import after_now
from common.domain.errors import Conflict
from common.domain.job import ClaimedJob, NewJob
from common.domain.retry import TryAgain
from common.domain.webhook_events import EVENTS, event_id
from tests.endpoints import endpoint, rows_of, subscribe
from tests.making import claim, enlist, make_image, make_job, submit

ENTRY = {"at": "2026-11-21T08:00:00.000Z", "status": 500, "ms": 3, "response": "a word", "error": None}


@pytest.fixture
def other(database: Database) -> str:
    with database.write() as connection:
        connection.execute(insert(tenants).values(id="other", name="Other"))
    return "other"


def started(database: Database) -> ClaimedJob:
    """A job that is on a device."""
    (job,) = claim(database, enlist(database), limit=1)
    with database.write() as connection:
        assert claims.join(connection, job.id, job.fence, "cpu")
    return job


def canceled(database: Database, **changes: Any) -> NewJob:
    """A job that was canceled before it began."""
    job = submit(database, **changes)
    with database.write() as connection:
        cancel_job(connection, job.tenant_id, job.id)
    return job


def end(database: Database, delivery_id: str, state: str = "failed", **columns: Any) -> None:
    """As a courier leaves it."""
    values: dict[str, Any] = {"state": state, "ended_at": after_now(0), "next_at": None, "body": "{}", "attempt": 10}
    with database.write() as connection:
        connection.execute(update(deliveries).where(deliveries.c.id == delivery_id).values(values | columns))


def seen(database: Database) -> set[tuple[str, str | None, str]]:
    return {(row.kind, row.subject_id, row.webhook_id) for row in rows_of(database)}


def test_each_endpoint_that_wants_an_event_gets_one_delivery_of_it(database: Database, other: str) -> None:
    all_kinds = subscribe(database, "https://Hooks.Example:8443/in", events=EVENTS)
    ends = subscribe(database)
    subscribe(database, events=["job.failed"])
    subscribe(database, tenant_id=other, events=EVENTS)
    subscribe(database, disabled_at=utc_now(), events=EVENTS)
    own_job = submit(database)
    own = subscribe(database, job_id=own_job.id, events=["job.succeeded"])
    job = started(database)
    with database.write() as connection:
        assert claims.finish(connection, job, [make_image(job)], {})
    canceled(database)
    assert {row for row in seen(database) if row[1] == job.id} == {
        ("job.started", job.id, all_kinds),
        ("job.succeeded", job.id, all_kinds),
        ("job.succeeded", job.id, ends),
        ("job.succeeded", job.id, own),
    }
    (row,) = rows_of(database, webhook_id=own)
    assert (row.state, row.attempt, row.schedule_from, row.log, row.body) == ("pending", 0, 0, [], None)
    assert row.event_id == event_id(job.id, row.version)
    assert rows_of(database, webhook_id=all_kinds)[0].host == "hooks.example"
    assert {one.event_id for one in rows_of(database, subject_id=job.id, kind="job.succeeded")} == {row.event_id}


def test_every_way_to_an_end_is_told_once(database: Database) -> None:
    webhook = subscribe(database)
    ends = {canceled(database).id: "job.canceled"}
    for decision in ("fail", "cancel", "late"):
        submit(database)
        job = started(database)
        with database.write() as connection:
            if decision == "fail":
                claims.fail(connection, job.id, job.fence, {"code": "internal"})
            elif decision == "cancel":
                claims.cancel_running(connection, job.id, job.fence)
            else:
                connection.execute(update(jobs).where(jobs.c.id == job.id).values(deadline_at=after_now(-1)))
                claims.hand_back(connection, job.id, job.fence, TryAgain())
        ends[job.id] = "job.canceled" if decision == "cancel" else "job.failed"
    assert seen(database) == {(kind, job_id, webhook) for job_id, kind in ends.items()}


def test_a_page_of_ends_is_told_with_one_look_at_the_endpoints(database: Database) -> None:
    webhook = subscribe(database)
    made = [submit(database).id for _ in range(30)]
    with database.write() as connection:
        connection.execute(update(jobs).values(deadline_at=after_now(-1)))
    statements: list[str] = []

    @event.listens_for(database.engine, "before_cursor_execute")
    def note(_c: Any, _cursor: Any, statement: str, *_: Any) -> None:
        statements.append(statement)

    with database.write() as connection:
        assert rescue.end_queued(connection) == 30
    assert sum("FROM webhooks" in statement for statement in statements) == 1
    assert {(row.subject_id, row.webhook_id) for row in rows_of(database)} == {(job_id, webhook) for job_id in made}


def test_a_rescue_tells_of_those_that_ended(database: Database) -> None:
    subscribe(database)
    submit(database, max_tries=1)
    submit(database, max_tries=3)
    worker = enlist(database)
    claimed = claim(database, worker)
    with database.write() as connection:
        for job in claimed:
            claims.join(connection, job.id, job.fence, "cpu")
        connection.execute(update(jobs).values(lease_until=after_now(-1)))
        rescue.rescue_expired(connection, 0.0)
    ended = [job.id for job in claimed if job.max_tries == 1]
    assert [(row.subject_id, row.kind) for row in rows_of(database)] == [(ended[0], "job.failed")]


def test_a_start_is_told_at_the_first_join_only(database: Database) -> None:
    subscribe(database, events=["job.started"])
    submit(database)
    first = started(database)
    with database.write() as connection:
        claims.join(connection, first.id, first.fence, "cpu")
        claims.hand_back(connection, first.id, first.fence, TryAgain())
    second = started(database)
    assert second.id == first.id
    assert [row.version for row in rows_of(database)] == [3]


def test_a_transition_that_is_undone_tells_nothing(database: Database) -> None:
    subscribe(database)
    job = submit(database)

    def undone() -> None:
        with database.write() as connection:
            cancel_job(connection, "default", job.id)
            raise RuntimeError

    with pytest.raises(RuntimeError):
        undone()
    assert rows_of(database) == []


def test_without_an_endpoint_an_end_costs_one_query_by_index_and_other_moves_none(database: Database) -> None:
    asked: list[tuple[str, Any]] = []

    @event.listens_for(database.engine, "before_cursor_execute")
    def note(_connection: Any, _cursor: Any, statement: str, parameters: Any, *_: Any) -> None:
        asked.extend([(statement, parameters)] if "webhooks" in statement or "deliveries" in statement else [])

    submit(database)
    (job,) = claim(database, enlist(database))
    assert asked == []
    with database.write() as connection:
        claims.fail(connection, job.id, job.fence, {"code": "internal"})
    ((statement, parameters),) = asked
    plan = plan_of(database, statement, parameters)
    assert "ix_webhooks_standing" in plan
    assert "ix_webhooks_job_id" in plan


def plan_of(database: Database, statement: str, parameters: Any) -> str:
    """How the database would go about it if the tables were large."""
    with database.write() as connection:
        if not database.is_sqlite:
            connection.exec_driver_sql("SET LOCAL enable_seqscan = off")
        explain = "EXPLAIN QUERY PLAN " if database.is_sqlite else "EXPLAIN "
        return "\n".join(str(tuple(row)) for row in connection.exec_driver_sql(explain + statement, parameters))


def test_deliveries_are_listed_newest_first_and_by_filters(database: Database, other: str) -> None:
    first, second = subscribe(database), subscribe(database)
    subscribe(database, tenant_id=other)
    made = [canceled(database) for _ in range(3)]
    canceled(database, tenant_id=other)
    with database.read() as connection:

        def listed(limit: int = 100, after: str | None = None, **filters: Any) -> list[Any]:
            return list_deliveries(connection, "default", limit=limit, after=after, filters=filters)

        found = listed()
        assert [one.id for one in found] == sorted((one.id for one in found), reverse=True)
        assert len(found) == 6
        assert listed(limit=2, after=found[1].id) == found[2:4]
        assert {one.webhook_id for one in listed(webhook_id=first)} == {first}
        assert {one.webhook_id for one in listed(subject_id=made[1].id)} == {first, second}
        assert listed(state="failed") == []
        assert find_delivery(connection, "default", found[0].id) == found[0]
        assert find_delivery(connection, other, found[0].id) is None
        assert found[0].url == "https://hooks.example/in"


def test_a_delivery_sent_again_keeps_its_id_and_log_and_begins_its_schedule_anew(database: Database) -> None:
    subscribe(database)
    canceled(database)
    (row,) = rows_of(database)
    for state in ("failed", "delivered", "disabled"):
        end(database, row.id, state, log=[ENTRY])
        with database.write() as connection:
            again = redeliver(connection, "default", row.id)
        assert again is not None
        assert (again.state, again.event_id, again.attempt, again.log) == ("pending", row.event_id, 10, [ENTRY])
        assert (again.ended_at, again.body) == (None, "{}")
        assert rows_of(database)[0].schedule_from == 10


def test_a_pending_delivery_sent_again_is_due_now_and_one_in_the_air_is_left_alone(database: Database) -> None:
    subscribe(database)
    canceled(database)
    (row,) = rows_of(database)
    later = utc_now() + timedelta(hours=1)
    for held in ({}, {"worker_id": "wrk_a", "lease_until": later}):
        with database.write() as connection:
            connection.execute(update(deliveries).values(next_at=later, **held))
            assert redeliver(connection, "default", row.id) is not None
        assert (rows_of(database)[0].next_at < later) == (not held)


def test_what_cannot_be_sent_again_is_refused(database: Database, other: str) -> None:
    webhook = subscribe(database)
    job = canceled(database)
    (row,) = rows_of(database)
    end(database, row.id)
    with database.write() as connection:
        assert redeliver(connection, other, row.id) is None
        assert redeliver(connection, "default", "whd_" + "0" * 32) is None
        connection.execute(update(webhooks).values(disabled_at=after_now(0)))
        with pytest.raises(Conflict, match="disabled") as caught:
            redeliver(connection, "default", row.id)
        assert caught.value.code == "not_editable"
        assert redeliver_many(connection, "default", filters={}, created_after=None, created_before=None) == 0
        connection.execute(update(webhooks).where(webhooks.c.id == webhook).values(disabled_at=None))
        erase_job(connection, "default", job.id)
        with pytest.raises(Conflict, match="erased"):
            redeliver(connection, "default", row.id)
        assert redeliver_many(connection, "default", filters={}, created_after=None, created_before=None) == 0


def test_many_are_sent_again_page_by_page(database: Database, other: str) -> None:
    first, second = subscribe(database), subscribe(database)
    subscribe(database, tenant_id=other)
    for _ in range(3):
        canceled(database)
    canceled(database, tenant_id=other)
    for row in rows_of(database):
        end(database, row.id, "failed" if row.webhook_id != second else "delivered")
    moments = [row.created_at for row in rows_of(database, webhook_id=first)]

    def send_again(**wishes: Any) -> int:
        wishes = {"filters": {}, "created_after": None, "created_before": None} | wishes
        with database.write() as connection:
            return redeliver_many(connection, "default", **wishes)

    assert send_again(created_after=moments[2]) == 0
    assert send_again(created_after=moments[1]) == 1
    assert send_again(created_before=moments[1]) == 1
    assert send_again(ended_before=moments[0]) == 0
    assert send_again(filters={"webhook_id": second}) == 0
    assert send_again(filters={"webhook_id": second, "state": "delivered"}, limit=2) == 2
    assert send_again(filters={"webhook_id": second, "state": "delivered"}, limit=2) == 1
    assert send_again() == 1
    assert send_again() == 0
    assert {row.state for row in rows_of(database, tenant_id="default")} == {"pending"}
    assert {row.state for row in rows_of(database, tenant_id=other)} == {"failed"}


def test_a_test_event_is_written_for_an_endpoint_of_the_tenant_only(database: Database, other: str) -> None:
    webhook = subscribe(database, events=["job.failed"])
    with database.write() as connection:
        assert announce_test(connection, other, webhook) is None
        made = [announce_test(connection, "default", webhook) for _ in range(2)]
        connection.execute(update(webhooks).values(disabled_at=after_now(0)))
        with pytest.raises(Conflict):
            announce_test(connection, "default", webhook)
    assert {one.kind for one in made if one} == {"webhook.test"}
    assert len({one.event_id for one in made if one}) == 2
    assert [(row.subject_id, row.version) for row in rows_of(database)] == [(None, None)] * 2


def test_an_erased_job_leaves_no_word_in_its_deliveries(database: Database) -> None:
    subscribe(database)
    subscribe(database)
    gone, kept = canceled(database), canceled(database)
    sent, waiting = rows_of(database, subject_id=gone.id)
    for row in (sent, *rows_of(database, subject_id=kept.id)):
        end(database, row.id, body="words", log=[ENTRY])
    with database.write() as connection:
        connection.execute(update(deliveries).where(deliveries.c.id == waiting.id).values(body="words", log=[ENTRY]))
        assert erase_job(connection, "default", gone.id)
    rows = {row.id: row for row in rows_of(database, subject_id=gone.id)}
    assert (rows[sent.id].body, rows[waiting.id].body, rows[waiting.id].state) == ("", None, "pending")
    assert [row.log for row in rows.values()] == [[ENTRY | {"response": None}]] * 2
    assert {row.body for row in rows_of(database, subject_id=kept.id)} == {"words"}
    assert {row.log[0]["response"] for row in rows_of(database, subject_id=kept.id)} == {"a word"}
    with database.write() as connection:
        scrub_deliveries(connection, gone.id)
        found = find_delivery(connection, "default", sent.id)
    assert found is not None
    assert found.body is None


def test_old_deliveries_are_forgotten_and_then_the_endpoints_of_their_jobs(database: Database) -> None:
    standing = subscribe(database)
    job, young, alive = make_job(), make_job(), make_job()
    with database.write() as connection:
        for one in (job, young, alive):
            insert_job(connection, one)
    own = [subscribe(database, job_id=one.id) for one in (job, young, alive)]
    with database.write() as connection:
        for one in (job, young):
            cancel_job(connection, "default", one.id)
    for row in rows_of(database, subject_id=job.id):
        end(database, row.id, "delivered", ended_at=after_now(-100))
    with database.write() as connection:
        connection.execute(update(jobs).where(jobs.c.id == job.id).values(finished_at=after_now(-100)))
        assert forget_own_webhooks(connection, 50) == ""
        assert forget_deliveries(connection, 200) == 0
        assert forget_deliveries(connection, 50) == 2
        assert forget_deliveries(connection, 50) == 0
        forget_own_webhooks(connection, 50)
        left = set(connection.execute(select(webhooks.c.id)).scalars())
    assert left == {standing, own[1], own[2]}
    assert len(rows_of(database, subject_id=young.id)) == 2


def test_the_endpoint_of_an_erased_job_goes_with_its_last_delivery(database: Database) -> None:
    job = submit(database)
    subscribe(database, job_id=job.id)
    with database.write() as connection:
        erase_job(connection, "default", job.id)
        forget_own_webhooks(connection, 1000)
    (row,) = rows_of(database)
    assert endpoint(database, row.webhook_id).job_id == job.id
    end(database, row.id, ended_at=after_now(-2000))
    with database.write() as connection:
        forget_deliveries(connection, 1000)
        forget_own_webhooks(connection, 1000)
        assert list(connection.execute(select(webhooks.c.id))) == []
