"""Webhooks from the row to the receiver: what is sent, how often, where the socket goes, and what the log says."""

import json
import threading
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import structlog
from sqlalchemy import update
from standardwebhooks import Webhook, WebhookVerificationError

from common import failpoints
from common.db import claims
from common.db.deliveries import announce_test, redeliver
from common.db.engine import Database
from common.db.erasing import erase_job
from common.db.jobs import cancel_job
from common.db.tables import webhooks
from common.db.types import after_now
from common.domain.errors import Unavailable
from common.domain.job import NewJob
from common.domain.webhook_events import event_id
from common.outbound.errors import LookupsBusy
from common.outbound.fetching import Outbound
from common.settings import Settings
from common.vault import Vault
from courier.dispatch import Dispatcher
from courier.main import Courier
from courier.tools import Tools
from tests.endpoints import OLD_SECRET, SECRET, endpoint, let_time_pass, rows_of, subscribe
from tests.making import claim, enlist, make_image, submit
from tests.unit.outbound.certificates import Authority
from tests.unit.outbound.hosts import Answers, Host, Visit, answer, sends
from tests.unit.outbound.loopback import HERE, TRAP, policy, second_loopback
from tests.waiting import wait_until

Maker = Callable[..., Tools]

OK = sends(answer(204))
MARKER = "an unmistakable prompt"


@pytest.fixture
def settled(tmp_path: Any) -> Settings:
    return Settings(
        _env_file=None, data_dir=tmp_path, public_url="https://darkroom.example/", webhook_timeout_seconds=0.5
    )


def canceled(tools: Tools, **changes: Any) -> NewJob:
    job = submit(tools.database, **changes)
    with tools.database.write() as connection:
        cancel_job(connection, "default", job.id)
    return job


def run(tools: Tools) -> int:
    """One look of a courier, and the end of its calls."""
    dispatcher = Dispatcher(tools)
    taken = dispatcher.run_once()
    dispatcher.join(30)
    return taken


def data_of(visit: Visit) -> Any:
    return json.loads(body_of(visit))["data"]


def body_of(visit: Visit) -> bytes:
    return visit.request.partition(b"\r\n\r\n")[2]


def url_of(host: Host, name: str = "hooks.example") -> str:
    return f"http://{name}:{host.port}/in"


def to(host: Host, make_tools: Maker, settings: Settings, **changes: Any) -> Tools:
    """Tools that reach this host by the name hooks.example."""
    return make_tools(host.port, resolver=Answers(hooks_example=[[HERE]]), settings=settings, **changes)


def test_a_receiver_gets_the_job_signed_and_without_its_words(make_tools: Maker, settled: Settings) -> None:
    with Host(OK) as host:
        tools = to(host, make_tools, settled)
        subscribe(tools.database, url_of(host), vault=tools.vault)
        job = canceled(tools, params={"prompt": MARKER, "negative_prompt": MARKER}, external_id="mine", tags=("red",))
        assert run(tools) == 1
        (row,) = rows_of(tools.database)
        (visit,) = host.visits
    headers, body = visit.headers, body_of(visit)
    assert (headers["content-type"], headers["webhook-id"]) == ("application/json", event_id(job.id, row.version))
    assert headers["user-agent"].startswith("darkroom/0.")
    assert Webhook(SECRET).verify(body, headers) == json.loads(body)
    document = json.loads(body)
    assert (document["type"], set(document)) == ("job.canceled", {"type", "timestamp", "data"})
    data = document["data"]
    assert (data["id"], data["status"], data["version"], data["external_id"], data["tags"]) == (
        job.id,
        "canceled",
        row.version,
        "mine",
        ["red"],
    )
    assert data["urls"]["self"] == f"https://darkroom.example/v1/jobs/{job.id}"
    assert not {"params", "warnings"} & set(data)
    assert MARKER.encode() not in visit.request
    assert (row.state, row.attempt, row.body.encode()) == ("delivered", 1, body)
    (entry,) = row.log
    assert (entry["status"], entry["response"], entry["error"]) == (204, "", None)
    assert 0 <= entry["ms"] < 10_000
    assert entry["at"].endswith("Z")


def test_what_was_tampered_with_or_is_old_is_refused_by_the_reference_library(
    make_tools: Maker, settled: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Host(OK) as host:
        tools = to(host, make_tools, settled)
        subscribe(tools.database, url_of(host), vault=tools.vault)
        canceled(tools)
        run(tools)
        (visit,) = host.visits
    headers, body = visit.headers, body_of(visit)
    reference = Webhook(SECRET)
    reference.verify(body, headers)
    stamp = int(headers["webhook-timestamp"])
    forged: Sequence[tuple[bytes, dict[str, str]]] = [
        (body.replace(b"canceled", b"succeeded"), {}),
        (body, {"webhook-id": headers["webhook-id"][:-1] + "x"}),
        (body, {"webhook-timestamp": str(stamp + 1)}),
        (body, {"webhook-timestamp": str(stamp - 301)}),
    ]
    for changed_body, changes in forged:
        with pytest.raises(WebhookVerificationError):
            reference.verify(changed_body, headers | changes)

    class Later(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> datetime:
            return datetime.fromtimestamp(stamp + 301, tz or UTC)

    monkeypatch.setattr("standardwebhooks.webhooks.datetime", Later)
    with pytest.raises(WebhookVerificationError, match="too old"):
        reference.verify(body, headers)


def test_two_secrets_sign_while_one_rotates(make_tools: Maker, settled: Settings) -> None:
    with Host(OK) as host:
        tools = to(host, make_tools, settled)
        old = {"old_secret": tools.vault.encrypt(OLD_SECRET)}
        webhook = subscribe(tools.database, url_of(host), vault=tools.vault, **old)
        for seconds, both in ((60, True), (-60, False)):
            with tools.database.write() as connection:
                own = webhooks.c.id == webhook
                connection.execute(update(webhooks).where(own).values(old_secret_until=after_now(seconds)))
            canceled(tools)
            run(tools)
            visit = host.visits[-1]
            assert len(visit.headers["webhook-signature"].split()) == 1 + both
            Webhook(SECRET).verify(body_of(visit), visit.headers)
            if both:
                Webhook(OLD_SECRET).verify(body_of(visit), visit.headers)


def test_a_retry_sends_the_very_bytes_and_id_with_a_new_timestamp(make_tools: Maker, settled: Settings) -> None:
    with Host(sends(answer(503, b"not now\x00" + b"\xff" * 3000))) as host:
        tools = to(host, make_tools, settled)
        subscribe(tools.database, url_of(host), vault=tools.vault)
        job = canceled(tools)
        assert run(tools) == 1
        assert run(tools) == 0
        (row,) = rows_of(tools.database)
        assert (row.state, row.attempt) == ("pending", 1)
        assert row.log[0]["response"] == "not now" + "\ufffd" * (1024 - 8)
        let_time_pass(tools.database)
        assert run(tools) == 1
    first, second = host.visits
    assert body_of(first) == body_of(second)
    assert first.headers["webhook-id"] == second.headers["webhook-id"] == event_id(job.id, row.version)
    Webhook(SECRET).verify(body_of(second), second.headers)
    assert [entry["status"] for entry in rows_of(tools.database)[0].log] == [503, 503]


@pytest.mark.parametrize(("answered", "least"), [(("Retry-After", "7200"), 7200), (("X-A", "b"), 4)])
def test_retry_after_is_honoured(make_tools: Maker, settled: Settings, answered: tuple[str, str], least: float) -> None:
    with Host(sends(answer(429, headers=[answered]))) as host:
        tools = to(host, make_tools, settled)
        subscribe(tools.database, url_of(host), vault=tools.vault)
        canceled(tools)
        run(tools)
    (row,) = rows_of(tools.database)
    ahead = (row.next_at - datetime.now(UTC)).total_seconds()
    assert least - 5 < ahead <= least + 5


def test_410_disables_the_endpoint_and_what_waits_for_it(make_tools: Maker, settled: Settings) -> None:
    with Host(sends(answer(410))) as host:
        tools = to(host, make_tools, settled.model_copy(update={"webhooks_per_host": 1}))
        webhook = subscribe(tools.database, url_of(host), vault=tools.vault)
        for _ in range(3):
            canceled(tools)
        run(tools)
        run(tools)
        assert len(host.visits) == 1
        assert {row.state for row in rows_of(tools.database)} == {"disabled"}
        assert endpoint(tools.database, webhook).disabled_reason == "gone"
        canceled(tools)
        assert len(rows_of(tools.database)) == 3


def test_an_endpoint_that_has_failed_for_days_is_disabled_unless_one_success_came_between(
    make_tools: Maker, settled: Settings
) -> None:
    answers = [500, 500, 204, 500, 500]
    reasons: list[str | None] = []
    with Host(lambda visit: visit.send(answer(answers[len(reasons)]))) as host:
        tools = to(host, make_tools, settled)
        webhook = subscribe(tools.database, url_of(host), vault=tools.vault)
        canceled(tools)
        for number in range(len(answers)):
            if number == 3:
                canceled(tools)
            run(tools)
            reasons.append(endpoint(tools.database, webhook).disabled_reason)
            let_time_pass(tools.database)
            if number != 0:
                five_days_pass(tools)
    assert reasons == [None, None, None, None, "failing"]
    assert [row.state for row in rows_of(tools.database)] == ["delivered", "disabled"]


def five_days_pass(tools: Tools) -> None:
    with tools.database.write() as connection:
        failing = webhooks.c.failing_since.is_not(None)
        connection.execute(update(webhooks).where(failing).values(failing_since=after_now(-432_000)))


def test_a_failure_of_a_quiet_past_costs_neither_the_endpoint_nor_what_is_sent_again(
    make_tools: Maker, settled: Settings
) -> None:
    with Host(sends(answer(503))) as host:
        tools = to(host, make_tools, settled.model_copy(update={"webhook_schedule": "10"}))
        webhook = subscribe(tools.database, url_of(host), vault=tools.vault)
        canceled(tools)
        for _ in range(2):
            run(tools)
            let_time_pass(tools.database)
        (failed,) = rows_of(tools.database, state="failed")
        five_days_pass(tools)
        canceled(tools)
        run(tools)  # the first failure of its schedule
        assert endpoint(tools.database, webhook).disabled_reason is None
        with tools.database.write() as connection:
            assert redeliver(connection, "default", failed.id)
        for _ in range(2):
            let_time_pass(tools.database)
            run(tools)
        assert endpoint(tools.database, webhook).disabled_reason is None


def test_the_schedule_ends_after_its_last_attempt(make_tools: Maker, settled: Settings) -> None:
    settings = settled.model_copy(update={"webhook_schedule": "10,10"})
    with Host(sends(answer(302, headers=[("Location", "http://10.0.0.1/")]))) as host:
        tools = to(host, make_tools, settings)
        subscribe(tools.database, url_of(host), vault=tools.vault)
        canceled(tools)
        for _ in range(5):
            run(tools)
            let_time_pass(tools.database)
        assert len(host.visits) == 3
    (row,) = rows_of(tools.database)
    assert (row.state, [entry["status"] for entry in row.log]) == ("failed", [302, 302, 302])


def test_a_start_is_told_as_it_was_although_the_job_went_on(make_tools: Maker, settled: Settings) -> None:
    with Host(OK) as host:
        tools = to(host, make_tools, settled)
        subscribe(tools.database, url_of(host), vault=tools.vault, events=["job.started", "job.succeeded"])
        submit(tools.database)
        (job,) = claim(tools.database, enlist(tools.database))
        with tools.database.write() as connection:
            claims.join(connection, job.id, job.fence, "cuda:1")
            claims.finish(connection, job, [make_image(job)], {"run_ms": 5})
        run(tools)
        told = {visit.headers["webhook-id"]: data_of(visit) for visit in host.visits}
    started, succeeded = told[event_id(job.id, 3)], told[event_id(job.id, 4)]
    assert (started["status"], started["version"], started["device"], started["images"]) == ("running", 3, "cuda:1", [])
    assert (started["finished_at"], started["metrics"], started["progress"]["value"]) == (None, {}, 0.0)
    assert started["started_at"] is not None
    assert (succeeded["status"], succeeded["version"], len(succeeded["images"])) == ("succeeded", 4, 1)
    image = succeeded["images"][0]
    assert image["url"] == f"https://darkroom.example/v1/jobs/{job.id}/images/0"


def test_a_test_event_names_its_endpoint(make_tools: Maker, settled: Settings) -> None:
    with Host(OK) as host:
        tools = to(host, make_tools, settled)
        webhook = subscribe(tools.database, url_of(host), vault=tools.vault, events=["job.failed"])
        with tools.database.write() as connection:
            announce_test(connection, "default", webhook)
        run(tools)
        document = json.loads(body_of(host.visits[0]))
    assert (document["type"], document["data"]) == ("webhook.test", {"webhook": webhook})


def test_an_erased_job_is_told_without_its_words(make_tools: Maker, settled: Settings) -> None:
    with Host(OK) as host:
        tools = to(host, make_tools, settled)
        subscribe(tools.database, url_of(host), vault=tools.vault)
        job = submit(tools.database, metadata={"a": MARKER}, tags=(MARKER,), external_id=MARKER)
        with tools.database.write() as connection:
            erase_job(connection, "default", job.id)
        run(tools)
        (visit,) = host.visits
    assert data_of(visit)["id"] == job.id
    assert MARKER.encode() not in visit.request


def test_a_url_that_leads_inside_after_it_was_saved_is_refused_at_connect_and_logged(
    make_tools: Maker, settled: Settings
) -> None:
    resolver = Answers(hooks_example=[[HERE], ["10.0.0.1"], ["169.254.169.254"], ["::ffff:7f00:1"]])
    with Host(OK) as host:
        tools = make_tools(host.port, resolver=resolver, settings=settled)
        assert tools.outbound.check(url_of(host)).host == "hooks.example"
        subscribe(tools.database, url_of(host), vault=tools.vault)
        canceled(tools)
        for _ in range(3):
            run(tools)
            let_time_pass(tools.database)
        assert host.visits == []
    (row,) = rows_of(tools.database)
    assert (row.state, row.attempt) == ("pending", 3)
    assert all("not allowed" in entry["error"] for entry in row.log)
    assert not any("10.0.0" in entry["error"] or "169.254" in entry["error"] for entry in row.log)


@second_loopback
def test_the_socket_goes_to_the_vetted_address_and_never_to_another(make_tools: Maker, settled: Settings) -> None:
    resolver = Answers(hooks_example=[[HERE], [TRAP]], trap_example=[[TRAP]])
    with Host(OK) as host, Host(OK, TRAP) as trap:
        tools = make_tools(host.port, trap.port, resolver=resolver, settings=settled)
        subscribe(tools.database, url_of(host), vault=tools.vault)
        subscribe(tools.database, url_of(trap, "trap.example"), vault=tools.vault)
        canceled(tools)
        run(tools)
        canceled(tools)
        run(tools)
        assert [visit.peer for visit in host.visits] == [HERE]
        assert host.visits[0].headers["host"] == f"hooks.example:{host.port}"
        assert trap.visits == []


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1:{port}/",
        "http://[::1]:{port}/",
        "http://[::ffff:127.0.0.1]:{port}/",
        "http://[64:ff9b::7f00:1]:{port}/",
        "http://[2002:7f00:1::]:{port}/",
        "http://2130706433:{port}/",
        "http://0x7f000001:{port}/",
        "http://0177.0.0.1:{port}/",
        "http://user@hooks.example:{port}/",
        "http://169.254.169.254/latest/meta-data/",
        "http://hooks.example:22/",
        "ftp://hooks.example/",
        "file:///etc/passwd",
    ],
)
def test_a_url_that_got_into_a_row_somehow_is_refused_all_the_same(
    make_tools: Maker, settled: Settings, url: str
) -> None:
    with Host(OK) as host:
        outbound = Outbound(policy(denied="127.0.0.0/8"), Answers(hooks_example=[[HERE]]))
        tools = make_tools(settings=settled, outbound=outbound)
        subscribe(tools.database, url.format(port=host.port), vault=tools.vault)
        canceled(tools)
        run(tools)
        assert host.visits == []
    (row,) = rows_of(tools.database)
    assert (row.state, row.attempt, row.log[0]["status"]) == ("pending", 1, None)
    assert row.log[0]["error"]


def test_bad_tls_is_a_failed_attempt(make_tools: Maker, settled: Settings, authority: Authority) -> None:
    with Host(OK, tls=authority.server_context("other.example")) as host:
        outbound = Outbound(policy(host.port), Answers(hooks_example=[[HERE]]), ssl_context=authority.client_context())
        tools = make_tools(settings=settled, outbound=outbound)
        subscribe(tools.database, f"https://hooks.example:{host.port}/", vault=tools.vault)
        canceled(tools)
        run(tools)
        assert host.visits[0].request == b""
    (row,) = rows_of(tools.database)
    assert "TLS" in row.log[0]["error"]


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
