"""The webhook of a single job: the field `webhook` of a submit, and what a retry makes of it."""

from collections.abc import Callable
from json import dumps
from typing import Any

import pytest
from sqlalchemy import select, update

from api.use_cases import submit_job
from common.db.tables import job_requests, webhooks
from common.db.tenants import create_key, create_tenant
from common.vault import Vault
from tests.unit.api.conftest import Api, Json, data_url
from tests.unit.api.endpoints import (
    BAD_URLS,
    OTHER_SECRET,
    SECRET,
    URL,
    announce,
    disable,
    names_away,
    public_hosts,
    register,
    rows,
)
from tests.unit.api.fakes import picture
from tests.unit.api.test_retrying import cancel, refusal, retry

WEBHOOK = {"url": URL, "secret": SECRET}


@pytest.fixture
def api(make_api: Callable[..., Api]) -> Api:
    return make_api(outbound=public_hosts())


def opened(api: Api, row: Any) -> str:
    vault: Vault = api.app.state.services.vault
    return vault.decrypt(row.secret)


def own(api: Api, job: Json) -> Any:
    """The one endpoint of this job."""
    (row,) = (row for row in rows(api.database) if row.job_id == job["id"])
    return row


def test_a_job_brings_its_own_endpoint(api: Api) -> None:
    job = api.submit(webhook=WEBHOOK)

    (row,) = rows(api.database)
    assert (row.job_id, row.tenant_id, row.url) == (job["id"], "default", URL)
    assert row.events == ["job.succeeded", "job.failed", "job.canceled"]
    assert (opened(api, row), row.old_secret) == (SECRET, None)


def test_it_is_told_of_its_job_alone_and_is_in_no_list(api: Api) -> None:
    job, other = api.submit(webhook=WEBHOOK | {"events": ["job.succeeded"]}), api.submit(webhook=WEBHOOK)

    announce(api.database, job["id"], 3)

    (delivery,) = api.client.get("/v1/deliveries").json()["data"]
    assert (delivery["job"], delivery["webhook"]) == (job["id"], own(api, job).id)
    assert own(api, other).id != delivery["webhook"]
    assert api.client.get("/v1/webhooks").json()["data"] == []
    assert api.client.get(f"/v1/webhooks/{delivery['webhook']}").json()["events"] == ["job.succeeded"]


def test_it_cannot_be_deleted_before_its_job(api: Api) -> None:
    row = own(api, api.submit(webhook=WEBHOOK))

    answer = api.client.delete(f"/v1/webhooks/{row.id}")

    assert (answer.status_code, answer.json()["code"]) == (409, "not_editable")
    assert rows(api.database) == [row]


@pytest.mark.parametrize("path", ["/v1/jobs", "/v1/jobs?dry_run=true"])
@pytest.mark.parametrize("url", BAD_URLS)
def test_a_url_that_may_not_be_called_is_refused_and_nothing_is_stored(api: Api, path: str, url: str) -> None:
    asked = {"prompt": "x", "image": data_url(), "webhook": {"url": url, "secret": SECRET}}
    answer = api.client.post(path, json=asked)

    (error,) = answer.json()["errors"]
    assert (answer.status_code, error["pointer"], error["code"]) == (422, "/webhook/url", "url_blocked")
    assert api.has_stored_nothing()
    assert not rows(api.database)


def test_a_name_that_cannot_be_looked_up_refuses_no_job_and_no_retry(make_api: Callable[..., Api]) -> None:
    api = make_api(outbound=names_away())

    job = api.submit(webhook=WEBHOOK)
    again = retry(api, cancel(api, job))

    assert (own(api, job).url, own(api, again).url) == (URL, URL)


def test_a_name_that_does_not_exist_refuses_no_job(api: Api) -> None:
    assert own(api, api.submit(webhook=WEBHOOK | {"url": "https://nowhere.example/"})).host == "nowhere.example"


@pytest.mark.parametrize(
    ("members", "pointer"),
    [
        ({"events": []}, "/webhook/events"),
        ({"events": ["batch.completed"]}, "/webhook/events/0"),
        ({"events": ["job.failed", "job.failed"]}, "/webhook/events"),
        ({"secret": "hunter2"}, "/webhook/secret"),
        ({"secret": None}, "/webhook/secret"),
        ({"description": "x"}, "/webhook/description"),
    ],
)
def test_a_wrong_member_is_named_and_nothing_is_stored(api: Api, members: Json, pointer: str) -> None:
    answer = api.client.post("/v1/jobs", json={"prompt": "x", "webhook": WEBHOOK | members})

    assert (answer.status_code, answer.json()["errors"][0]["pointer"]) == (422, pointer)
    assert "hunter2" not in answer.text
    assert api.has_stored_nothing()


@pytest.mark.parametrize("path", ["/v1/jobs", "/v1/jobs?dry_run=true"])
def test_without_a_secret_one_must_have_been_agreed_on(api: Api, path: str) -> None:
    asked = {"prompt": "x", "image": data_url(), "webhook": {"url": URL}}
    refused = api.client.post(path, json=asked)
    made = register(api)
    accepted = api.client.post(path, json=asked)
    disable(api.database, made["id"])

    for answer in (refused, api.client.post(path, json=asked)):
        (error,) = answer.json()["errors"]
        assert (answer.status_code, error["pointer"], error["code"]) == (422, "/webhook/secret", "validation_error")
        assert "whsec_" in error["detail"]
    assert accepted.is_success


def test_without_a_secret_the_newest_enabled_webhook_lends_its_own(api: Api) -> None:
    register(api, secret=OTHER_SECRET)
    newest_enabled = register(api)
    disable(api.database, register(api)["id"])

    assert opened(api, own(api, api.submit(webhook={"url": URL}))) == newest_enabled["secret"]


def test_a_secret_that_was_lent_rotates_with_the_one_who_lent_it(api: Api) -> None:
    lender = register(api, secret=SECRET)
    borrower, own_one = api.submit(webhook={"url": URL}), api.submit(webhook=WEBHOOK)
    rotated = api.client.post(lender["urls"]["rotate"]).json()["secret"]
    later = api.submit(webhook={"url": URL})

    vault: Vault = api.app.state.services.vault
    for row in (own(api, borrower), own(api, later)):
        assert (opened(api, row), vault.decrypt(row.old_secret)) == (rotated, SECRET)
    assert (opened(api, own(api, own_one)), own(api, own_one).old_secret) == (SECRET, None)


def test_a_webhook_of_another_tenant_lends_nothing(make_api: Callable[..., Api], api: Api) -> None:
    register(api)
    guarded = make_api(outbound=public_hosts(), auth="keys")
    with guarded.database.write() as connection:
        create_tenant(connection, "other", "Other")
        key = create_key(connection, "other", name="t", scopes=["jobs:write"], expires_seconds=None)
    headers = {"Authorization": f"Bearer {key}"}

    answer = guarded.client.post("/v1/jobs", json={"prompt": "x", "webhook": {"url": URL}}, headers=headers)

    assert answer.json()["errors"][0]["pointer"] == "/webhook/secret"


def test_what_was_to_sign_may_go_before_the_job_is_written(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    made = register(api)

    def make_plan_late(*args: Any, **named: Any) -> Any:
        api.client.delete(made["urls"]["self"])
        return make_plan(*args, **named)

    make_plan = submit_job.make_plan
    monkeypatch.setattr(submit_job, "make_plan", make_plan_late)
    answer = api.client.post("/v1/jobs", json={"prompt": "x", "webhook": {"url": URL}})

    assert (answer.status_code, answer.json()["errors"][0]["pointer"]) == (422, "/webhook/secret")
    assert api.has_stored_nothing()


def test_an_endpoint_that_cannot_be_written_leaves_no_job(api: Api) -> None:
    with api.database.write() as connection:
        connection.exec_driver_sql(
            "CREATE TRIGGER no_webhooks BEFORE INSERT ON webhooks BEGIN SELECT RAISE(ABORT, 'no'); END"
        )
    answer = api.client.post("/v1/jobs", json={"prompt": "x", "webhook": WEBHOOK})

    assert answer.status_code == 500
    assert api.has_stored_nothing()


def test_a_dry_run_checks_it_and_stores_nothing(api: Api) -> None:
    answer = api.client.post("/v1/jobs?dry_run=true", json={"prompt": "x", "webhook": WEBHOOK})

    assert answer.status_code == 200
    assert api.has_stored_nothing()
    assert not rows(api.database)


def test_a_form_and_json_bring_the_same_endpoint(api: Api) -> None:
    fields = {
        "prompt": "x",
        "webhook.url": URL,
        "webhook.secret": SECRET,
        "webhook.events": ["job.started", "job.failed"],
    }
    form = api.client.post("/v1/jobs", data=fields, files={"image": ("a.png", picture())})
    wish = WEBHOOK | {"events": ["job.started", "job.failed"]}
    whole = [("request", (None, dumps({"prompt": "x", "webhook": wish}))), ("image", ("a.png", picture()))]
    part = api.client.post("/v1/jobs", files=whole)

    assert (form.status_code, part.status_code) == (202, 202), form.text + part.text
    first, second = rows(api.database)
    for row in (first, second):
        assert (row.url, row.events, opened(api, row)) == (URL, wish["events"], SECRET)


@pytest.mark.parametrize(
    ("fields", "pointer"),
    [
        ({"webhook": URL}, "/webhook"),
        ({"webhook.url": "http://hooks.example", "webhook.secret": SECRET}, "/webhook/url"),
        ({"webhook.url": URL, "webhook.event": "job.failed"}, "/webhook/event"),
    ],
)
def test_a_wrong_form_field_is_named(api: Api, fields: Json, pointer: str) -> None:
    answer = api.client.post("/v1/jobs", data={"prompt": "x"} | fields, files={"image": ("a.png", picture())})

    assert (answer.status_code, answer.json()["errors"][0]["pointer"]) == (422, pointer)
    assert api.has_stored_nothing()


def test_neither_secret_nor_url_is_kept_with_the_request_or_shown(api: Api) -> None:
    job = api.submit(webhook=WEBHOOK)

    with api.database.read() as connection:
        kept = connection.execute(select(job_requests.c.request)).scalar_one()
    assert kept == {"prompt": "a cat"}
    shown = [dumps(job), api.client.get("/v1/jobs").text, dumps(retry(api, cancel(api, job)))]
    assert not any("hooks.example" in text or "whsec_" in text for text in shown)


def test_another_webhook_is_another_request(api: Api) -> None:
    def send(webhook: Json | None) -> Any:
        body = {"prompt": "x", "webhook": webhook}
        return api.client.post("/v1/jobs", json=body, headers={"Idempotency-Key": "k"})

    first, again = send(WEBHOOK), send(WEBHOOK)
    others = [send(WEBHOOK | {"secret": OTHER_SECRET}), send({"url": URL + "8", "secret": SECRET}), send(None)]

    assert (again.status_code, again.json()["id"]) == (202, first.json()["id"])
    assert [answer.json()["code"] for answer in others] == ["idempotency_mismatch"] * 3
    assert len(rows(api.database)) == 1


def test_a_retry_carries_it_over(api: Api) -> None:
    first = api.submit(webhook=WEBHOOK | {"events": ["job.failed"]})
    disable(api.database, own(api, first).id)

    second = own(api, retry(api, cancel(api, first), seed=7))

    assert (second.url, second.events, opened(api, second)) == (URL, ["job.failed"], SECRET)
    assert (second.disabled_at, second.failing_since) == (None, None)


def test_a_retry_may_have_another_or_none(api: Api) -> None:
    job = cancel(api, api.submit(webhook=WEBHOOK))
    other = own(api, retry(api, job, webhook={"url": URL + "8", "secret": OTHER_SECRET}))
    none = retry(api, job, webhook=None)

    assert (other.url, opened(api, other)) == (URL + "8", OTHER_SECRET)
    assert not [row for row in rows(api.database) if row.job_id == none["id"]]


@pytest.mark.parametrize(
    ("webhook", "pointer", "code"),
    [
        ({"url": URL}, "/overrides/webhook/secret", "validation_error"),
        ({"url": "https://inside.example", "secret": SECRET}, "/overrides/webhook/url", "url_blocked"),
        ({"secret": SECRET}, "/overrides/webhook/url", "validation_error"),
        ({"url": URL, "secrt": SECRET}, "/overrides/webhook/secrt", "unknown_field"),
    ],
)
def test_a_wrong_override_is_refused_by_its_field(api: Api, webhook: Json, pointer: str, code: str) -> None:
    job = cancel(api, api.submit(webhook=WEBHOOK))

    assert refusal(api, job, webhook=webhook) == (422, pointer, code)
    assert len(rows(api.database)) == 1


def test_an_address_that_is_no_longer_allowed_is_not_carried_over(api: Api) -> None:
    job = cancel(api, api.submit(webhook=WEBHOOK))
    with api.database.write() as connection:
        connection.execute(update(webhooks).values(url="https://inside.example/"))

    assert refusal(api, job) == (422, "/overrides/webhook/url", "url_blocked")
    retry(api, job, webhook=None)


def test_the_scope_of_jobs_is_enough_for_ones_own(make_api: Callable[..., Api]) -> None:
    guarded = make_api(outbound=public_hosts(), auth="keys")
    with guarded.database.write() as connection:
        key = create_key(connection, "default", name="t", scopes=["jobs:write"], expires_seconds=None)
    headers = {"Authorization": f"Bearer {key}"}

    assert guarded.client.post("/v1/jobs", json={"prompt": "x", "webhook": WEBHOOK}, headers=headers).status_code == 202
