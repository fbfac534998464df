"""How couriers take deliveries and write what came of them, on both databases."""

import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import event, insert, update

from common.clock import utc_now
from common.db.announcing import Event, delivery_row
from common.db.dispatching import MAX_LOG, Taken, put_back, take
from common.db.due_groups import find_groups
from common.db.engine import Database
from common.db.erasing import erase_job
from common.db.jobs import cancel_job
from common.db.outcomes import keep_body, settle
from common.db.tables import deliveries, tenants, webhooks
from common.db.types import after_now
from common.domain.delivery import Again, Decision, Delivered, Disable, GiveUp
from common.domain.dispatching import Calls, Limits, Name, choose_groups
from tests.contract.test_deliveries_in_sql import plan_of
from tests.endpoints import endpoint, let_time_pass, rows_of, subscribe
from tests.making import submit

HOST = "hooks.example"
ENTRY = {"at": "2026-11-21T08:00:00.000Z", "status": 500, "ms": 3, "response": "a word", "error": None}


def deliver_to(database: Database, webhook_id: str, count: int = 1, tenant_id: str = "default", **columns: Any) -> None:
    """So many pending deliveries of jobs that nobody knows."""
    host = endpoint(database, webhook_id).host
    made = [Event(tenant_id, f"job_{number}", 2, "job.failed") for number in range(count)]
    rows = [delivery_row(one, webhook_id, host) | {"next_at": utc_now() - timedelta(hours=1)} | columns for one in made]
    with database.write() as connection:
        connection.execute(insert(deliveries), rows)


def everything(_: Calls) -> Mapping[Name, int]:
    return {(HOST, "default"): 100}


def takes(
    database: Database,
    worker_id: str = "wrk_a",
    choose: Callable[[Calls], Mapping[Name, int]] = everything,
    lease_seconds: float = 30,
) -> list[Taken]:
    with database.write() as connection:
        return take(connection, worker_id, lease_seconds, choose)


def settles(database: Database, taken: Taken, decision: Decision) -> Decision | None:
    with database.write() as connection:
        return settle(connection, taken, ENTRY, lambda _: decision)


def tenant(database: Database, tenant_id: str) -> str:
    with database.write() as connection:
        connection.execute(insert(tenants).values(id=tenant_id, name=tenant_id))
    return tenant_id


def test_groups_with_something_due_are_found_page_by_page_in_the_order_of_their_names(database: Database) -> None:
    names = [(f"host{number}.example", f"tenant{number % 2}") for number in range(5)]
    for tenant_id in ("tenant0", "tenant1"):
        tenant(database, tenant_id)
    for number, (host, tenant_id) in enumerate(names):
        failing = utc_now() if number == 2 else None
        webhook = subscribe(database, f"https://{host}/", tenant_id=tenant_id, failing_since=failing)
        later = {"next_at": utc_now() + timedelta(hours=1)} if number == 3 else {}
        deliver_to(database, webhook, 3, tenant_id, **later)
    with database.read() as connection:
        whole = find_groups(connection, None)
        first = find_groups(connection, None, limit=3)
        second = find_groups(connection, first.following, limit=3)
    assert whole.following is None
    assert [group.name for group in whole.groups] == [names[0], names[1], names[2], names[4]]
    assert [group.is_failing for group in whole.groups] == [False, False, True, False]
    assert first.groups + second.groups == whole.groups
    assert (first.following, second.following) == (names[2], None)


def test_finding_groups_costs_by_the_groups_and_not_by_what_waits_in_them(database: Database) -> None:
    deliver_to(database, subscribe(database), 2000)
    asked: list[tuple[str, Any]] = []

    @event.listens_for(database.engine, "before_cursor_execute")
    def note(_connection: Any, _cursor: Any, statement: str, parameters: Any, *_: Any) -> None:
        asked.extend([(statement, parameters)] if "deliveries" in statement else [])

    with database.read() as connection:
        assert [group.name for group in find_groups(connection, ("a", "b")).groups] == [(HOST, "default")]
    ((statement, parameters),) = asked
    plan = plan_of(database, statement, parameters)
    assert plan.count("ix_deliveries_due") == 3
    assert "Sort" not in plan
    assert "TEMP B-TREE" not in plan
    if database.is_sqlite:
        assert "(host=? AND tenant_id>?)" in plan


def test_a_delivery_is_taken_by_one_courier_until_its_lease_is_over(database: Database) -> None:
    webhook = subscribe(database)
    deliver_to(database, webhook, 3)
    first = takes(database)
    assert [(one.attempt, one.tries, one.url, one.host) for one in first] == [
        (1, 1, "https://hooks.example/in", HOST)
    ] * 3
    assert takes(database, "wrk_b") == []
    let_time_pass(database)
    second = takes(database, "wrk_b")
    assert {(one.id, one.attempt) for one in second} == {(one.id, 2) for one in first}
    for row in rows_of(database):
        (lost,) = row.log
        assert (lost["status"], "courier was lost" in lost["error"]) == (None, True)
    assert [settles(database, one, Delivered()) for one in first] == [None] * 3
    assert [settles(database, one, Delivered()) for one in second] == [Delivered()] * 3
    assert {(row.state, len(row.log), row.worker_id, row.next_at) for row in rows_of(database)} == {
        ("delivered", 2, None, None)
    }


def test_the_longest_due_come_first_and_no_more_than_chosen(database: Database) -> None:
    webhook = subscribe(database)
    for hours in (1, 3, 2):
        deliver_to(database, webhook, 1, event_id=f"evt_{hours}", next_at=utc_now() - timedelta(hours=hours))
    deliver_to(database, webhook, 1, event_id="evt_later", next_at=utc_now() + timedelta(hours=1))
    taken = takes(database, choose=lambda _: {(HOST, "default"): 2})
    assert [one.event_id for one in taken] == ["evt_3", "evt_2"]


def test_a_courier_is_told_what_is_in_the_air(database: Database) -> None:
    tenant(database, "other")
    well, failing = subscribe(database), subscribe(database, "https://b.example/", failing_since=utc_now())
    foreign = subscribe(database, tenant_id="other")
    for webhook, tenant_id in ((well, "default"), (failing, "default"), (foreign, "other")):
        deliver_to(database, webhook, 2, tenant_id)
    takes(database, "wrk_a", lambda _: {(HOST, "default"): 2, ("b.example", "default"): 1})
    takes(database, "wrk_b", lambda _: {(HOST, "other"): 1})
    told: list[Calls] = []
    takes(database, "wrk_a", lambda calls: told.append(calls) or {})  # type: ignore[func-returns-value]
    by_group = {(HOST, "default"): 2, ("b.example", "default"): 1, (HOST, "other"): 1}
    assert told == [Calls(by_group, {"default": 3}, 1, {("b.example", "default"): 1})]
    let_time_pass(database)
    takes(database, "wrk_a", lambda calls: told.append(calls) or {})  # type: ignore[func-returns-value]
    assert told[1] == Calls()


def test_many_couriers_at_once_never_exceed_the_limit_of_a_host(database: Database) -> None:
    names = ["default", *(tenant(database, f"tenant{number}") for number in range(3))]
    for tenant_id in names:
        deliver_to(database, subscribe(database, tenant_id=tenant_id), 10, tenant_id)
    limits, barrier = Limits(slots=32, per_host=4), threading.Barrier(6)

    def courier(number: int) -> list[Taken]:
        with database.read() as connection:
            groups = find_groups(connection, None).groups
        barrier.wait()
        return database.transact(
            lambda c: take(c, f"wrk_{number}", 30, lambda calls: choose_groups(groups, calls, limits, 32, {}))
        )

    with ThreadPoolExecutor(6) as pool:
        taken = [one for some in pool.map(courier, range(6)) for one in some]
    assert len(taken) == len({one.id for one in taken}) == 4
    assert {one.tenant_id for one in taken} == set(names)


def test_what_is_due_for_a_disabled_endpoint_ends_as_disabled(database: Database) -> None:
    deliver_to(database, subscribe(database, disabled_at=utc_now()), 2)
    assert takes(database) == []
    assert {(row.state, row.attempt, row.ended_at is None) for row in rows_of(database)} == {("disabled", 0, False)}


def test_secrets_are_both_told_while_they_rotate(database: Database) -> None:
    for seconds in (100, -100):
        until = utc_now() + timedelta(seconds=seconds)
        webhook = subscribe(database, old_secret=b"old", old_secret_until=until)
        deliver_to(database, webhook, 1)
        (taken,) = takes(database)
        assert taken.secrets == ((b"sealed", b"old") if seconds > 0 else (b"sealed",))
        assert "sealed" not in repr(taken)


def test_a_failed_attempt_waits_and_marks_its_endpoint_and_a_success_clears_it(database: Database) -> None:
    webhook = subscribe(database)
    deliver_to(database, webhook, 1)
    (taken,) = takes(database)
    assert settles(database, taken, Again(3600.0)) == Again(3600.0)
    (row,) = rows_of(database)
    assert (row.state, row.attempt, row.log, row.worker_id, row.lease_until) == ("pending", 1, [ENTRY], None, None)
    assert timedelta(minutes=55) < row.next_at - utc_now() < timedelta(minutes=65)
    since = endpoint(database, webhook).failing_since
    assert since is not None
    assert takes(database) == []
    let_time_pass(database)
    (again,) = takes(database)
    assert again.attempt == 2
    told: list[float] = []
    with database.write() as connection:
        settle(connection, again, ENTRY, lambda seconds: told.append(seconds) or Again(1.0))  # type: ignore[func-returns-value]
    assert told[0] > 0
    assert endpoint(database, webhook).failing_since == since
    let_time_pass(database)
    (third,) = takes(database)
    settles(database, third, Delivered())
    assert endpoint(database, webhook).failing_since is None
    assert [row.state for row in rows_of(database)] == ["delivered"]
    assert settles(database, third, GiveUp()) is None


def test_a_given_up_delivery_failed(database: Database) -> None:
    deliver_to(database, subscribe(database), 1)
    (taken,) = takes(database)
    settles(database, taken, GiveUp())
    (row,) = rows_of(database)
    assert (row.state, row.next_at, row.ended_at is not None) == ("failed", None, True)


@pytest.mark.parametrize("reason", ["gone", "failing"])
def test_a_disabled_endpoint_gets_nothing_more_but_what_is_in_the_air(database: Database, reason: Any) -> None:
    webhook, other = subscribe(database), subscribe(database)
    deliver_to(database, webhook, 4)
    deliver_to(database, other, 1, next_at=utc_now() + timedelta(hours=1))
    first, second, third = takes(database, choose=lambda _: {(HOST, "default"): 3})
    settles(database, first, Disable(reason))
    gone = endpoint(database, webhook)
    assert (gone.disabled_at is not None, gone.disabled_reason) == (True, reason)
    settles(database, second, Delivered())
    settles(database, third, Again(5.0))
    assert takes(database) == []
    states = {row.id: row.state for row in rows_of(database, webhook_id=webhook)}
    assert states.pop(second.id) == "delivered"
    assert set(states.values()) == {"disabled"}
    assert [row.state for row in rows_of(database, webhook_id=other)] == ["pending"]


def test_the_log_keeps_the_last_fifty_attempts(database: Database) -> None:
    old = [ENTRY | {"ms": number} for number in range(MAX_LOG)]
    deliver_to(database, subscribe(database), 1, log=old, attempt=60)
    (taken,) = takes(database)
    settles(database, taken, Again(1.0))
    (row,) = rows_of(database)
    assert row.log == [*old[1:], ENTRY]


def test_what_could_not_be_sent_is_put_back_without_an_attempt(database: Database) -> None:
    deliver_to(database, subscribe(database), 1)
    (taken,) = takes(database)
    with database.write() as connection:
        assert put_back(connection, taken, 60.0)
        assert not put_back(connection, taken, 60.0)
    (row,) = rows_of(database)
    assert (row.state, row.attempt, row.log, row.worker_id) == ("pending", 0, [], None)
    assert row.next_at > utc_now()


def test_the_body_is_kept_for_all_attempts_unless_the_delivery_went_elsewhere(database: Database) -> None:
    subscribe(database)
    job = submit(database)
    with database.write() as connection:
        cancel_job(connection, "default", job.id)
    (taken,) = takes(database)
    assert taken.body is None
    with database.write() as connection:
        assert keep_body(connection, taken, lambda found, _: f"of {found.id if found else None}") == f"of {job.id}"
    let_time_pass(database)
    (again,) = takes(database, "wrk_b")
    assert again.body == f"of {job.id}"
    with database.write() as connection:
        assert keep_body(connection, taken, lambda *_: "too late") is None
    assert rows_of(database)[0].body == f"of {job.id}"


def test_an_attempt_that_ends_after_the_erasure_leaves_no_response(database: Database) -> None:
    subscribe(database)
    job = submit(database)
    with database.write() as connection:
        cancel_job(connection, "default", job.id)
    (taken,) = takes(database)
    with database.write() as connection:
        erase_job(connection, "default", job.id)
    settles(database, taken, Again(1.0))
    (row,) = rows_of(database)
    assert row.log == [ENTRY | {"response": None}]


def test_an_endpoint_that_is_deleted_takes_its_deliveries_along_whoever_holds_them(database: Database) -> None:
    webhook = subscribe(database)
    deliver_to(database, webhook, 2)
    taken = takes(database, choose=lambda _: {(HOST, "default"): 1})
    with database.write() as connection:
        connection.execute(webhooks.delete().where(webhooks.c.id == webhook))
    assert rows_of(database) == []
    assert settles(database, taken[0], Delivered()) is None
    with database.write() as connection:
        assert keep_body(connection, taken[0], lambda *_: "x") is None


@pytest.mark.postgres
def test_a_transition_outlives_the_deletion_of_an_endpoint_that_it_meets(postgres_database: Database) -> None:
    """The foreign key must not undo the end of a job."""
    database = postgres_database
    webhook, job = subscribe(database), submit(database)
    deleting, may_commit = threading.Event(), threading.Event()

    def delete() -> None:
        with database.write() as connection:
            connection.execute(webhooks.delete().where(webhooks.c.id == webhook))
            deleting.set()
            may_commit.wait(10)

    def cancel() -> None:
        with database.write() as connection:
            cancel_job(connection, "default", job.id)

    with ThreadPoolExecutor(2) as pool:
        deleted = pool.submit(delete)
        deleting.wait(10)
        canceled = pool.submit(cancel)
        may_commit.set()
        deleted.result(10)
        canceled.result(10)
    assert rows_of(database) == []


def test_a_lapsed_lease_is_not_in_the_air_any_more(database: Database) -> None:
    deliver_to(database, subscribe(database), 1)
    takes(database)
    with database.write() as connection:
        connection.execute(update(deliveries).values(lease_until=after_now(-1), next_at=after_now(-1)))
    with database.read() as connection:
        assert [group.name for group in find_groups(connection, None).groups] == [(HOST, "default")]
