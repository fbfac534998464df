"""What goes wrong on our side of a webhook: shortages, lost leases, dead receivers, drains, outages."""

import threading
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import structlog
from standardwebhooks import Webhook

from common import failpoints
from common.db.engine import Database
from common.domain.errors import Unavailable
from common.outbound.errors import LookupsBusy
from common.settings import Settings
from common.vault import Vault
from courier.dispatch import Dispatcher
from courier.main import Courier
from tests.endpoints import OLD_SECRET, SECRET, endpoint, let_time_pass, rows_of, subscribe
from tests.unit.courier.sending import OK, Maker, body_of, canceled, run, to, url_of
from tests.unit.outbound.hosts import Answers, Host, Visit, answer
from tests.unit.outbound.loopback import HERE
from tests.waiting import wait_until


def test_a_secret_that_does_not_open_spends_no_attempt(make_tools: Maker, settled: Settings) -> None:
    with Host(OK) as host:
        tools = to(host, make_tools, settled)
        subscribe(tools.database, url_of(host), vault=Vault(["another key of more than 32 characters"]))
        canceled(tools)
        assert run(tools) == 1
        (row,) = rows_of(tools.database)
        assert (row.state, row.attempt, row.log, row.worker_id) == ("pending", 0, [], None)
        assert host.visits == []


def test_a_replaced_secret_whose_key_was_dropped_signs_no_more_and_stops_nothing(
    make_tools: Maker, settled: Settings
) -> None:
    with Host(OK) as host:
        tools = to(host, make_tools, settled)
        dropped = Vault(["another key of more than 32 characters"]).encrypt(OLD_SECRET)
        old = {"old_secret": dropped, "old_secret_until": datetime.now(UTC) + timedelta(days=1)}
        subscribe(tools.database, url_of(host), vault=tools.vault, **old)
        canceled(tools)
        with structlog.testing.capture_logs() as logs:
            run(tools)
        (visit,) = host.visits
    assert len(visit.headers["webhook-signature"].split()) == 1
    Webhook(SECRET).verify(body_of(visit), visit.headers)
    assert [row.state for row in rows_of(tools.database)] == ["delivered"]
    assert "webhook.old_secret_unreadable" in {line["event"] for line in logs}


def test_a_body_that_cannot_be_built_is_not_held_against_the_receiver(
    make_tools: Maker, settled: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stumble(*_: Any) -> str:
        raise ValueError("a mistake of ours")

    monkeypatch.setattr("courier.deliver.body_text", stumble)
    with Host(OK) as host:
        tools = to(host, make_tools, settled)
        webhook = subscribe(tools.database, url_of(host), vault=tools.vault)
        canceled(tools)
        with structlog.testing.capture_logs() as logs:
            run(tools)
        assert host.visits == []
    (row,) = rows_of(tools.database)
    assert (row.state, row.attempt, row.log, row.worker_id) == ("pending", 0, [], None)
    assert (row.next_at - datetime.now(UTC)).total_seconds() > 20
    assert endpoint(tools.database, webhook).failing_since is None
    assert "delivery.unspeakable" in {line["event"] for line in logs}


def test_too_many_lookups_of_our_own_are_no_attempt(make_tools: Maker, settled: Settings) -> None:
    class Busy:
        def addresses(self, host: str, *, limit_seconds: float) -> Sequence[Any]:
            raise LookupsBusy

    with Host(OK) as host:
        tools = make_tools(host.port, resolver=Busy(), settings=settled)
        webhook = subscribe(tools.database, url_of(host), vault=tools.vault)
        canceled(tools)
        run(tools)
        assert host.visits == []
    (row,) = rows_of(tools.database)
    assert (row.state, row.attempt, row.log, row.worker_id) == ("pending", 0, [], None)
    assert row.next_at > datetime.now(UTC)
    assert endpoint(tools.database, webhook).failing_since is None


def test_a_delivery_whose_attempts_never_end_is_given_up(make_tools: Maker, settled: Settings) -> None:
    settings = settled.model_copy(update={"webhook_schedule": "10"})
    with Host(OK) as host:
        tools = to(host, make_tools, settings)
        subscribe(tools.database, url_of(host), vault=tools.vault)
        canceled(tools)
        failpoints.arm("courier.posted:error")
        try:
            for _ in range(9):
                with structlog.testing.capture_logs():
                    run(tools)
                let_time_pass(tools.database)
        finally:
            failpoints.arm("")
        assert len(host.visits) == 7
    (row,) = rows_of(tools.database)
    assert (row.state, row.log[-1]["error"]) == ("failed", "attempts never came to an end")
    assert len({visit.headers["webhook-id"] for visit in host.visits}) == 1


def test_a_courier_that_lost_its_lease_writes_nothing(make_tools: Maker, settled: Settings) -> None:
    asked, may_answer = threading.Event(), threading.Event()

    def slow(visit: Visit) -> None:
        asked.set()
        may_answer.wait(20)
        visit.send(answer(204))

    with Host(slow) as host:
        settings = settled.model_copy(update={"webhook_timeout_seconds": 20.0})
        tools = to(host, make_tools, settings)
        subscribe(tools.database, url_of(host), vault=tools.vault)
        canceled(tools)
        first = Dispatcher(tools)
        assert first.run_once() == 1
        assert asked.wait(20)
        let_time_pass(tools.database)
        other = to(host, make_tools, settled, worker_id="wrk_b")
        second = Dispatcher(other)
        second.run_once()
        may_answer.set()
        first.join(30)
        second.join(30)
    (row,) = rows_of(tools.database)
    assert row.attempt == 2
    assert [entry["status"] for entry in row.log][:1] == [None]
    assert len(row.log) == 2


def test_a_dead_receiver_delays_nobody_else(make_tools: Maker, settled: Settings) -> None:
    """Sixteen deliveries hang at a dead host; another host's arrive meanwhile, and so do those of a bell later."""
    may_answer = threading.Event()
    settings = settled.model_copy(update={"webhook_timeout_seconds": 30.0, "webhook_threads": 8})

    def dead(visit: Visit) -> None:
        may_answer.wait(30)

    with Host(dead) as grave, Host(OK) as host:
        resolver = Answers(grave_example=[[HERE]], hooks_example=[[HERE]])
        tools = make_tools(grave.port, host.port, resolver=resolver, settings=settings)
        subscribe(tools.database, url_of(grave, "grave.example"), vault=tools.vault)
        for _ in range(16):
            canceled(tools)
        subscribe(tools.database, url_of(host), vault=tools.vault)
        courier = Courier(tools)
        courier.start()
        try:
            for _ in range(5):
                canceled(tools)
                courier.ring()
            wait_until(lambda: len(host.visits) == 5)
            assert len(rows_of(tools.database, host="grave.example", state="pending")) == 21
        finally:
            may_answer.set()
            courier.stop()
    held = rows_of(tools.database, host="grave.example")
    assert any(row.attempt for row in held)


def test_a_drain_lets_calls_in_hand_end_and_takes_nothing_more(make_tools: Maker, settled: Settings) -> None:
    asked, may_answer = threading.Event(), threading.Event()

    def slow(visit: Visit) -> None:
        asked.set()
        may_answer.wait(20)
        visit.send(answer(204))

    with Host(slow) as host:
        tools = to(host, make_tools, settled.model_copy(update={"webhook_timeout_seconds": 20.0}))
        subscribe(tools.database, url_of(host), vault=tools.vault)
        canceled(tools)
        courier = Courier(tools)
        courier.start()
        courier.ring()
        assert asked.wait(20)
        stopping = threading.Thread(target=courier.stop)
        stopping.start()
        wait_until(courier.is_stopped)
        canceled(tools)
        courier.ring()
        may_answer.set()
        stopping.join(20)
        assert not stopping.is_alive()
    assert [row.state for row in rows_of(tools.database)] == ["delivered", "pending"]


def test_a_database_that_is_away_stops_no_dispatcher(
    make_tools: Maker, settled: Settings, sqlite_database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    failures = [Unavailable("away"), RuntimeError("odd")]
    looked = Dispatcher.run_once

    def stumble(self: Dispatcher) -> int:
        if failures:
            raise failures.pop()
        return looked(self)

    monkeypatch.setattr(Dispatcher, "run_once", stumble)
    with Host(OK) as host:
        tools = to(host, make_tools, settled.model_copy(update={"poll_seconds": 0.02}))
        subscribe(tools.database, url_of(host), vault=tools.vault)
        canceled(tools)
        dispatcher = Dispatcher(tools)
        with structlog.testing.capture_logs() as logs:
            dispatcher.start()
            wait_until(lambda: host.visits)
            dispatcher.stop()
            dispatcher.join(20)
    assert {"dispatcher.unavailable", "dispatcher.stumbled"} <= {line["event"] for line in logs}
