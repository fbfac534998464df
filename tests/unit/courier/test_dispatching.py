"""The dispatcher's looks: one for all that is due when that is little, else a walk with a turn for every group."""

import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import pytest
from sqlalchemy import insert, select, update

from common.db.announcing import Event, delivery_row
from common.db.due_groups import find_groups
from common.db.engine import Database
from common.db.tables import deliveries, tenants
from common.db.types import after_now
from common.settings import Settings
from courier import dispatch
from courier.deliver import Call
from courier.dispatch import Dispatcher
from courier.tools import Tools
from tests.endpoints import subscribe
from tests.waiting import wait_until

Maker = Callable[..., Tools]


class Calls:
    """The hosts that were called; every call fails when the look is over, and its delivery is due again at once."""

    def __init__(self) -> None:
        self.hosts: list[str] = []
        self.may_end = threading.Event()

    def fail(self, tools: Tools, call: Call) -> None:
        self.hosts.append(call.taken.host)
        assert self.may_end.wait(20)
        with tools.database.write() as connection:
            own = deliveries.c.id == call.taken.id
            again = {"worker_id": None, "lease_until": None, "next_at": after_now(-1)}
            connection.execute(update(deliveries).where(own).values(again))


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Calls:
    made = Calls()
    monkeypatch.setattr(dispatch, "deliver", made.fail)
    return made


def failing_hosts(database: Database, count: int) -> list[str]:
    """One delivery each, due, to so many hosts that fail; the last of them is another tenant's."""
    since = datetime.now(UTC) - timedelta(hours=1)
    hosts = [f"host{number:02}.example" for number in range(count)]
    with database.write() as connection:
        connection.execute(insert(tenants).values(id="other", name="Other"))
    for host in hosts:
        tenant_id = "other" if host == hosts[-1] else "default"
        webhook = subscribe(database, f"https://{host}/", tenant_id=tenant_id, failing_since=since)
        row = delivery_row(Event(tenant_id, "job_1", 2, "job.failed"), webhook, host)
        with database.write() as connection:
            connection.execute(insert(deliveries).values(row | {"next_at": since}))
    return hosts


def look(dispatcher: Dispatcher, calls: Calls) -> int:
    calls.may_end.clear()
    taken = dispatcher.run_once()
    calls.may_end.set()
    wait_until(lambda: dispatcher._free() == 4, what="the end of the calls in hand")
    return taken


@pytest.mark.parametrize("is_much", [False, True])
def test_failing_groups_behind_the_first_page_get_their_turn(
    make_tools: Maker, tmp_path: Any, calls: Calls, monkeypatch: pytest.MonkeyPatch, is_much: bool
) -> None:
    if is_much:
        monkeypatch.setattr(dispatch, "find_few_groups", lambda _: None)
        monkeypatch.setattr(dispatch, "find_groups", partial(find_groups, limit=5))
    tools = make_tools(settings=Settings(_env_file=None, data_dir=tmp_path, webhook_threads=4))
    hosts = failing_hosts(tools.database, 20)
    dispatcher = Dispatcher(tools)
    for _ in range(60):
        assert 0 < look(dispatcher, calls) <= 2
    dispatcher.join(10)
    assert {host: calls.hosts.count(host) >= 2 for host in hosts} == dict.fromkeys(hosts, True)


def test_a_walk_that_meets_nothing_it_may_send_goes_on_where_it_ended(
    make_tools: Maker, tmp_path: Any, calls: Calls, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dispatch, "find_few_groups", lambda _: None)
    monkeypatch.setattr(dispatch, "find_groups", partial(find_groups, limit=2))
    monkeypatch.setattr(dispatch, "_MOST_PAGES", 3)
    tools = make_tools(settings=Settings(_env_file=None, data_dir=tmp_path, webhook_threads=4))
    hosts = failing_hosts(tools.database, 10)
    with tools.database.write() as connection:
        later = deliveries.c.host.in_(hosts[:8])
        connection.execute(update(deliveries).where(later).values(next_at=after_now(3600)))
        assert len(connection.execute(select(deliveries.c.id)).all()) == 10
    dispatcher = Dispatcher(tools)
    assert [look(dispatcher, calls), look(dispatcher, calls)] == [0, 2]
    dispatcher.join(10)
    assert sorted(calls.hosts) == hosts[8:]
