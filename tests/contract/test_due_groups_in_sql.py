"""Who waits, who counts as failing, and who goes first at one host, on both databases."""

from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import event, insert, select, update

from common.clock import utc_now
from common.db.announcing import Event, delivery_row
from common.db.deliveries import announce_test, redeliver, redeliver_many
from common.db.dispatching import WINDOW
from common.db.due_groups import find_few_groups, find_groups
from common.db.engine import Database
from common.db.tables import deliveries, webhooks
from common.db.types import after_now
from common.db.webhooks import enable_webhook
from common.domain.delivery import Again, Delivered, Disable
from common.domain.dispatching import Group
from common.ids import new_id
from common.outbound.urls import host_of
from tests.contract.test_deliveries_in_sql import plan_of
from tests.contract.test_dispatching_in_sql import HOST, deliver_to, settles, takes, tenant
from tests.endpoints import endpoint, rows_of, subscribe
from tests.making import submit

HOUR = timedelta(hours=1)


def few(database: Database, limit: int = 2000) -> dict[str, Group] | None:
    with database.read() as connection:
        groups = find_few_groups(connection, limit)
    return None if groups is None else {group.host: group for group in groups}


def of_job(database: Database, url: str = f"https://{HOST}/job", **columns: Any) -> str:
    """The endpoint of a new job."""
    return subscribe(database, url, job_id=submit(database).id, **columns)


def test_a_few_that_are_due_are_found_at_once_with_the_time_since_when(database: Database) -> None:
    for number in range(3):
        deliver_to(database, subscribe(database, f"https://host{number}.example/"), 2)
    deliver_to(database, subscribe(database, "https://host3.example/"), 5, next_at=utc_now() + HOUR)
    oldest = utc_now() - 5 * HOUR
    deliver_to(database, subscribe(database, "https://host1.example/more"), 1, next_at=oldest)
    groups = few(database)
    assert groups is not None
    assert sorted(groups) == ["host0.example", "host1.example", "host2.example"]
    assert abs(groups["host1.example"].due_since - oldest) < timedelta(seconds=1)
    assert few(database, 7) is None
    assert few(database, 8) is not None


def test_what_waits_for_its_time_costs_a_look_nothing(database: Database) -> None:
    webhook = subscribe(database)
    later = utc_now() + 2 * HOUR
    made = [delivery_row(Event("default", f"job_{n}", 2, "job.failed"), webhook, f"a{n}.example") for n in range(3000)]
    with database.write() as connection:
        connection.execute(insert(deliveries), [row | {"next_at": later} for row in made])
    deliver_to(database, webhook, 1, event_id="evt_due")
    asked: list[tuple[str, Any]] = []

    @event.listens_for(database.engine, "before_cursor_execute")
    def note(_connection: Any, _cursor: Any, statement: str, parameters: Any, *_: Any) -> None:
        asked.extend([(statement, parameters)] if "deliveries" in statement else [])

    assert list(few(database) or {}) == [HOST]
    ((statement, parameters),) = asked
    plan = plan_of(database, statement, parameters)
    assert "ix_deliveries_next" in plan
    if not database.is_sqlite:
        with database.write() as connection:
            connection.exec_driver_sql("ANALYZE deliveries")
            explained = "\n".join(
                str(tuple(row)) for row in connection.exec_driver_sql("EXPLAIN ANALYZE " + statement, parameters)
            )
        assert "Rows Removed by Filter" not in explained
        assert "ix_deliveries_next" in explained


def test_an_endpoint_of_a_job_fails_with_those_of_other_jobs_at_the_host_and_recovers_with_them(
    database: Database,
) -> None:
    """Each job brings a new endpoint: a dead host would otherwise get three calls for ever."""
    first, second = of_job(database), of_job(database, f"https://{HOST}/other")
    deliver_to(database, first, 1, event_id="evt_1")
    (taken,) = takes(database)
    settles(database, taken, Again(3600.0))
    deliver_to(database, second, 3)
    deliver_to(database, of_job(database, "https://elsewhere.example/"), 1)
    other = tenant(database, "other")
    deliver_to(database, subscribe(database, tenant_id=other), 1, other)
    with database.read() as connection:
        walked = {group.name: group.is_failing for group in find_groups(connection, None).groups}
        found = {group.name: group.is_failing for group in find_few_groups(connection) or []}
    assert walked == found == {(HOST, "default"): True, ("elsewhere.example", "default"): False, (HOST, "other"): False}
    (probe,) = takes(database)
    assert takes(database) == []
    settles(database, probe, Delivered())
    assert endpoint(database, first).failing_since is None
    assert len(takes(database)) == 2


@pytest.mark.parametrize("backlog", [2, WINDOW, 4 * WINDOW])
def test_a_dead_endpoint_delays_no_live_one_of_its_tenant_at_its_host(database: Database, backlog: int) -> None:
    dead = subscribe(database, failing_since=utc_now())
    live = subscribe(database, f"https://{HOST}/live")
    deliver_to(database, dead, backlog + 1, next_at=utc_now() - 5 * HOUR)
    (held,) = takes(database)
    assert held.webhook_id == dead
    assert {group.is_failing for group in (few(database) or {}).values()} == {True}
    deliver_to(database, live, 2)
    assert {group.is_failing for group in (few(database) or {}).values()} == {False}
    assert [one.webhook_id for one in takes(database)] == [live, live]


def test_a_job_whose_endpoint_fails_does_not_make_standing_ones_fail(database: Database) -> None:
    of_job(database, failing_since=utc_now())
    deliver_to(database, subscribe(database), 3)
    assert [group.is_failing for group in (few(database) or {}).values()] == [False]
    assert len(takes(database)) == 3


def test_disabling_touches_the_endpoint_alone_and_what_waits_ends_when_it_comes_due(database: Database) -> None:
    webhook, live = subscribe(database), subscribe(database, f"https://{HOST}/live")
    deliver_to(database, webhook, 1, event_id="evt_first", next_at=utc_now() - 5 * HOUR)
    (taken,) = takes(database)
    deliver_to(database, webhook, 3 * WINDOW, next_at=utc_now() - 2 * HOUR)
    deliver_to(database, webhook, 1, event_id="evt_later", next_at=utc_now() + HOUR)
    deliver_to(database, live, 1)
    settles(database, taken, Disable("gone"))
    assert len(rows_of(database, state="disabled")) == 1
    assert [one.webhook_id for one in takes(database, choose=lambda _: {(HOST, "default"): 1})] == [live]
    assert len(rows_of(database, state="disabled")) == 1 + 3 * WINDOW
    assert [row.event_id for row in rows_of(database, state="pending", webhook_id=webhook)] == ["evt_later"]


def test_one_success_recovers_a_page_of_endpoints_and_passes_those_that_are_locked(
    postgres_database: Database,
) -> None:
    database = postgres_database
    failing = [of_job(database, failing_since=utc_now()) for _ in range(3)]
    deliver_to(database, subscribe(database), 1)
    (taken,) = takes(database)
    with database.write() as connection:
        connection.execute(select(webhooks.c.id).where(webhooks.c.id == failing[0]).with_for_update())
        settles(database, taken, Delivered())
    assert [endpoint(database, one).failing_since is None for one in failing] == [False, True, True]


def test_spellings_of_one_host_are_one_group(database: Database) -> None:
    urls = ("https://bücher.example/", "https://XN--bcher-kva.example:8443/", "https://bücher。example/a")
    made = [subscribe(database, url, events=["job.failed"]) for url in urls]
    for webhook in made:
        deliver_to(database, webhook, 1, event_id=new_id("evt"))
    assert list(few(database) or {}) == ["xn--bcher-kva.example"] == [*{host_of(url) for url in urls}]


def test_what_is_sent_again_or_tried_out_begins_a_new_row_of_failures(database: Database) -> None:
    webhook, other = subscribe(database), subscribe(database, "https://other.example/")
    deliver_to(database, webhook, 1, state="failed", ended_at=utc_now())
    (row,) = rows_of(database)
    wishes: Any = {"filters": {}, "created_after": None, "created_before": None}
    ways: Any = [
        lambda c: redeliver(c, "default", row.id),
        lambda c: redeliver_many(c, "default", **wishes),
        lambda c: announce_test(c, "default", webhook),
        lambda c: enable_webhook(c, "default", webhook),
    ]
    for way in ways:
        with database.write() as connection:
            connection.execute(update(webhooks).values(failing_since=after_now(-432_000)))
            own = deliveries.c.id == row.id
            connection.execute(update(deliveries).where(own).values(state="failed", ended_at=after_now(-1)))
            assert way(connection)
        assert endpoint(database, webhook).failing_since is None
        assert endpoint(database, other).failing_since is not None
