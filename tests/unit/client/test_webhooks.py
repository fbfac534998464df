"""Verifying deliveries, against the reference library of Standard Webhooks both ways; endpoints and deliveries."""

import json
import time
from base64 import b64encode
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

import httpx
import pytest
import standardwebhooks
from starlette.datastructures import Headers

from client.errors import ClientError, DarkroomAPIError
from client.webhooks import WebhookEvent, WebhookVerificationError, verify_webhook
from common.signing import new_secret, sign
from tests.unit.client.serving import Server, answer, problem

SECRET = new_secret()
EVENT_ID = "evt_" + "0" * 32
DATA = {"id": "job_1", "status": "succeeded", "version": 3, "metadata": {"who": "Zoë ✓"}}
BODY = json.dumps({"type": "job.succeeded", "timestamp": "2026-11-21T08:00:00.123Z", "data": DATA}).encode()


def by_reference(body: bytes = BODY, secret: str = SECRET, at: float | None = None) -> dict[str, str]:
    """The headers of a delivery as the reference library signs it."""
    moment = int(time.time() if at is None else at)
    signature = standardwebhooks.Webhook(secret).sign(EVENT_ID, datetime.fromtimestamp(moment, UTC), body.decode())
    return {"webhook-id": EVENT_ID, "webhook-timestamp": str(moment), "webhook-signature": signature}


def by_us(*secrets: str, at: float | None = None) -> dict[str, str]:
    """The headers of a delivery as the courier signs it."""
    moment = int(time.time() if at is None else at)
    signature = sign(secrets, EVENT_ID, moment, BODY)
    return {"webhook-id": EVENT_ID, "webhook-timestamp": str(moment), "webhook-signature": signature}


def test_what_the_reference_signs_is_taken_and_read() -> None:
    event = verify_webhook(by_reference(), BODY, SECRET)
    moment = datetime(2026, 11, 21, 8, 0, 0, 123_000, UTC)
    assert event == WebhookEvent(id=EVENT_ID, type="job.succeeded", timestamp=moment, data=DATA)


def test_what_we_sign_is_taken_by_the_reference_and_by_us() -> None:
    assert standardwebhooks.Webhook(SECRET).verify(BODY, by_us(SECRET)) == json.loads(BODY)
    assert verify_webhook(by_us(SECRET), BODY, SECRET).data == DATA


@pytest.mark.parametrize(
    "mapped",
    [
        lambda headers: {name.title(): text for name, text in headers.items()},
        lambda headers: Headers({name.upper(): text for name, text in headers.items()}),
        httpx.Headers,
    ],
    ids=["a dictionary", "starlette", "httpx"],
)
def test_any_mapping_of_headers_will_do(mapped: Callable[[Mapping[str, str]], Mapping[str, str]]) -> None:
    assert verify_webhook(mapped(by_reference()), BODY, SECRET).id == EVENT_ID


def test_while_a_secret_rotates_the_old_and_the_new_one_verify() -> None:
    old, new = new_secret(), new_secret()
    for secret in (old, new):
        assert verify_webhook(by_us(new, old), BODY, secret).id == EVENT_ID
        assert standardwebhooks.Webhook(secret).verify(BODY, by_us(new, old))


def tampered(**changes: str) -> dict[str, str]:
    return by_reference() | {name.replace("_", "-"): text for name, text in changes.items()}


@pytest.mark.parametrize(
    ("headers", "body"),
    [
        (by_reference(), BODY.replace(b"succeeded", b"succeedee")),
        (by_reference(), BODY + b" "),
        (by_reference(), b""),
        (tampered(webhook_id="evt_" + "1" * 32), BODY),
        (tampered(webhook_timestamp=str(int(time.time()) + 1)), BODY),
        (tampered(webhook_timestamp="now"), BODY),
        (tampered(webhook_timestamp="9" * 400), BODY),
        (tampered(webhook_signature=""), BODY),
        (tampered(webhook_signature="v1,"), BODY),
        (tampered(webhook_signature="v1,é\udcff"), BODY),
        (tampered(webhook_id="evt_\udcff"), BODY),
        (tampered(webhook_signature=by_reference()["webhook-signature"].replace("v1,", "v2,")), BODY),
        (by_reference(secret=new_secret()), BODY),
        ({}, BODY),
    ],
)
def test_what_is_not_as_it_was_signed_is_refused_by_the_reference_and_by_us(
    headers: dict[str, str], body: bytes
) -> None:
    with pytest.raises(WebhookVerificationError):
        verify_webhook(headers, body, SECRET)
    with pytest.raises((standardwebhooks.WebhookVerificationError, ValueError)):
        standardwebhooks.Webhook(SECRET).verify(body, headers)


@pytest.mark.parametrize(("age", "is_fresh"), [(0, True), (299, True), (301, False), (-299, True), (-301, False)])
def test_a_replay_after_five_minutes_is_refused(age: int, is_fresh: bool) -> None:
    now = 1_800_000_000.0
    headers = by_reference(at=now - age)
    if is_fresh:
        assert verify_webhook(headers, BODY, SECRET, now=now).id == EVENT_ID
        return
    with pytest.raises(WebhookVerificationError, match="300 seconds"):
        verify_webhook(headers, BODY, SECRET, now=now)


@pytest.mark.parametrize("body", [b"[]", b"{}", b'{"type": "t", "timestamp": "2026-11-21T08:00:00Z", "data": []}'])
def test_what_is_signed_but_no_event_is_refused(body: bytes) -> None:
    with pytest.raises(WebhookVerificationError, match="not as Darkroom writes it"):
        verify_webhook(by_reference(body), body, SECRET)


@pytest.mark.parametrize("secret", ["", "whsec_", "whsec_short", b64encode(b"0" * 32).decode(), "whsec_é"])
def test_a_secret_that_is_none_is_an_error_of_the_receiver(secret: str) -> None:
    with pytest.raises(ValueError, match="a webhook secret is whsec_"):
        verify_webhook(by_reference(), BODY, secret)


def test_the_error_is_one_of_the_sdk() -> None:
    assert issubclass(WebhookVerificationError, ClientError)


def asked(server: Server, number: int = -1) -> tuple[str, str, Any]:
    request = server.requests[number]
    return request.method, request.url.path, json.loads(request.content) if request.content else None


WEBHOOK = {"id": "whe_1", "url": "https://example.com/hook", "events": ["job.failed"], "status": "enabled"}
DELIVERY = {"id": "whd_1", "webhook": "whe_1", "event": "job.failed", "status": "failed", "attempt": 1}
DELIVERY |= {"log": [{"at": "…", "status": 500, "ms": 3, "response": "oops", "error": None}]}


def test_an_endpoint_is_made_with_what_is_given_and_its_secret_is_shown_but_not_logged() -> None:
    server = Server([answer(201, WEBHOOK | {"secret": SECRET})])
    webhooks = server.client().webhooks
    made = webhooks.create("https://example.com/hook")
    assert asked(server) == ("POST", "/v1/webhooks", {"url": "https://example.com/hook"})
    assert (made.id, made.url, made.events, made.status) == ("whe_1", WEBHOOK["url"], ("job.failed",), "enabled")
    assert made.secret == SECRET
    assert SECRET not in repr(made)
    webhooks.create("https://example.com/hook", events=("job.failed",), secret=SECRET, description="ours")
    wished = {"url": WEBHOOK["url"], "events": ["job.failed"], "secret": SECRET, "description": "ours"}
    assert asked(server)[2] == wished


def test_endpoints_are_listed_looked_at_changed_and_deleted() -> None:
    page = answer(200, {"data": [WEBHOOK], "has_more": False, "next": None})
    one, sent = answer(200, WEBHOOK), answer(202, DELIVERY)
    server = Server([page, one, one, one, one, sent, httpx.Response(204)])
    webhooks = server.client().webhooks
    assert [found.id for found in webhooks.list()] == ["whe_1"]
    assert webhooks.get("whe_1").secret is None
    webhooks.rotate("whe_1")
    webhooks.rotate("whe_1", secret=SECRET)
    assert webhooks.enable("whe_1").status == "enabled"
    assert webhooks.test("whe_1").id == "whd_1"
    webhooks.delete("whe_1")
    assert [asked(server, number) for number in range(7)] == [
        ("GET", "/v1/webhooks", None),
        ("GET", "/v1/webhooks/whe_1", None),
        ("POST", "/v1/webhooks/whe_1/rotate", {}),
        ("POST", "/v1/webhooks/whe_1/rotate", {"secret": SECRET}),
        ("POST", "/v1/webhooks/whe_1/enable", None),
        ("POST", "/v1/webhooks/whe_1/test", None),
        ("DELETE", "/v1/webhooks/whe_1", None),
    ]


def test_what_makes_a_secret_is_not_asked_for_twice() -> None:
    for ask in (lambda one: one.webhooks.create("https://a.test"), lambda one: one.webhooks.rotate("whe_1")):
        server = Server([httpx.ReadError("cut")])
        with pytest.raises(ClientError, match="cut"):
            ask(server.client())
        assert len(server.requests) == 1


def test_deliveries_are_listed_page_by_page() -> None:
    first = answer(200, {"data": [DELIVERY], "has_more": True, "next": "whd_1"})
    last = answer(200, {"data": [DELIVERY | {"id": "whd_0"}], "has_more": False, "next": None})
    server = Server([first, last])
    found = list(server.client().deliveries(webhook="whe_1", status="failed"))
    assert [(one.id, one.event, one.status, one.log[0]["status"]) for one in found] == [
        ("whd_1", "job.failed", "failed", 500),
        ("whd_0", "job.failed", "failed", 500),
    ]
    assert dict(server.requests[0].url.params) == {"limit": "100", "webhook": "whe_1", "status": "failed"}
    assert server.requests[1].url.params["after"] == "whd_1"


def test_deliveries_are_sent_again_one_or_many() -> None:
    server = Server([answer(202, DELIVERY | {"status": "pending"}), answer(202, {"redelivered": 3})])
    assert server.client().redeliver("whd_1").status == "pending"
    assert server.client().redeliver_failed(webhook="whe_1", created_after="2026-11-21T08:00:00Z") == 3
    assert asked(server, 0) == ("POST", "/v1/deliveries/whd_1/redeliver", None)
    bounds = {"webhook": "whe_1", "status": "failed", "created_after": "2026-11-21T08:00:00Z"}
    assert asked(server, 1) == ("POST", "/v1/deliveries/redeliver", bounds)


def test_a_refused_endpoint_names_its_field() -> None:
    wrong = {"pointer": "/url", "code": "url_blocked", "detail": "a private address"}
    with pytest.raises(DarkroomAPIError) as caught:
        Server([problem(422, "url_blocked", errors=[wrong])]).client().webhooks.create("https://10.0.0.1")
    assert caught.value.errors == (wrong,)
