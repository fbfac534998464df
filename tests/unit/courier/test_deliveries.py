"""Webhooks from the row to the receiver: what is sent, how often, and what an answer means."""

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import pytest
from sqlalchemy import update
from standardwebhooks import Webhook, WebhookVerificationError

from common.db import claims
from common.db.deliveries import announce_test, redeliver
from common.db.erasing import erase_job
from common.db.tables import webhooks
from common.db.types import after_now
from common.domain.webhook_events import event_id
from common.settings import Settings
from courier.tools import Tools
from tests.endpoints import OLD_SECRET, SECRET, endpoint, let_time_pass, rows_of, subscribe
from tests.making import claim, enlist, make_image, submit
from tests.unit.courier.sending import MARKER, OK, Maker, body_of, canceled, data_of, run, to, url_of
from tests.unit.outbound.hosts import Host, answer, sends


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
