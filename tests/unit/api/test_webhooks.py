"""Standing webhooks over HTTP."""

from collections.abc import Callable
from typing import Any

import pytest
import structlog
from sqlalchemy import update

from api.schemas.webhooks import Event, Webhook, WebhookWithSecret
from common.db.tables import webhooks
from common.db.tenants import create_tenant
from common.db.types import after_now
from common.db.webhooks import MAX_STANDING
from common.domain.webhook_events import DEFAULT_EVENTS, EVENTS
from common.ids import new_id
from common.signing import key_of
from common.vault import Vault
from tests.unit.api.conftest import Api
from tests.unit.api.endpoints import (
    BAD_URLS,
    OTHER_SECRET,
    SECRET,
    URL,
    disable,
    names_away,
    public_hosts,
    register,
    rows,
)
from tests.unit.api.test_auth import key_for


@pytest.fixture
def api(make_api: Callable[..., Api]) -> Api:
    return make_api(outbound=public_hosts())


def opened(api: Api, token: bytes) -> str:
    vault: Vault = api.app.state.services.vault
    return vault.decrypt(token)


def test_a_new_webhook_is_enabled_and_its_secret_shown_once(api: Api) -> None:
    answer = api.client.post("/v1/webhooks", json={"url": URL, "description": "shop"})

    made = answer.json()
    secret = made.pop("secret")
    assert answer.status_code == 201
    assert answer.headers["location"] == made["urls"]["self"]
    assert (made["url"], made["description"], made["status"]) == (URL, "shop", "enabled")
    assert made["events"] == list(DEFAULT_EVENTS)
    assert (made["disabled_reason"], made["failing_since"], made["old_secret_until"]) == (None, None, None)
    assert len(key_of(secret)) == 32
    Webhook.model_validate(made)
    assert api.client.get(made["urls"]["self"]).json() == made
    assert api.client.get("/v1/webhooks").json() == {"data": [made], "has_more": False, "next": None}


def test_what_the_edge_takes_is_what_the_domain_knows() -> None:
    names = [name for part in Event.__args__ for name in getattr(part, "__args__", [part])]

    assert sorted(names) == sorted(EVENTS)


def test_a_secret_may_be_given_and_stands_nowhere_in_plain_text(api: Api, tmp_path: Any) -> None:
    with structlog.testing.capture_logs() as logs:
        made = register(api, secret=SECRET)
        rotated = api.client.post(made["urls"]["rotate"], json={"secret": OTHER_SECRET})

    assert (made["secret"], rotated.json()["secret"]) == (SECRET, OTHER_SECRET)
    WebhookWithSecret.model_validate(made)
    (row,) = rows(api.database)
    assert (opened(api, row.secret), opened(api, row.old_secret)) == (OTHER_SECRET, SECRET)
    api.database.close()
    kept = b"".join(path.read_bytes() for path in tmp_path.glob("api.db*"))
    shown = api.client.get("/v1/webhooks").text + api.client.get(made["urls"]["self"]).text + repr(logs)
    for secret in (SECRET, OTHER_SECRET):
        assert secret.removeprefix("whsec_").encode() not in kept
        assert key_of(secret) not in kept
        assert secret.removeprefix("whsec_") not in shown


def test_a_name_that_cannot_be_looked_up_just_now_is_asked_for_again_later(make_api: Callable[..., Api]) -> None:
    api = make_api(outbound=names_away())

    away = api.client.post("/v1/webhooks", json={"url": URL})
    inside = api.client.post("/v1/webhooks", json={"url": "https://10.1.2.3/"})

    assert (away.status_code, away.json()["code"]) == (503, "unavailable")
    assert "hooks.example" in away.json()["detail"]
    assert (inside.status_code, inside.json()["errors"][0]["code"]) == (422, "url_blocked")
    assert not rows(api.database)


@pytest.mark.parametrize("url", [*BAD_URLS, "https://nowhere.example/"])
def test_a_url_that_may_not_be_called_is_refused_at_save(api: Api, url: str) -> None:
    answer = api.client.post("/v1/webhooks", json={"url": url})

    (error,) = answer.json()["errors"]
    assert (answer.status_code, error["pointer"], error["code"]) == (422, "/url", "url_blocked")
    assert not rows(api.database)


@pytest.mark.parametrize(
    ("members", "pointer", "code"),
    [
        ({"url": None}, "/url", "validation_error"),
        ({"url": URL + "x" * 2000}, "/url", "validation_error"),
        ({"events": []}, "/events", "validation_error"),
        ({"events": ["job.succeeded", "job.succeeded"]}, "/events", "validation_error"),
        ({"events": ["webhook.test"]}, "/events/0", "validation_error"),
        ({"events": ["job.queued"]}, "/events/0", "validation_error"),
        ({"secret": "whsec_c2hvcnQ="}, "/secret", "validation_error"),
        ({"secret": SECRET.removeprefix("whsec_")}, "/secret", "validation_error"),
        ({"secret": SECRET + "é"}, "/secret", "validation_error"),
        ({"secret": "whsec_" + "A" * 88}, "/secret", "validation_error"),
        ({"description": "x" * 201}, "/description", "validation_error"),
        ({"description": "\0"}, "/description", "validation_error"),
        ({"event": []}, "/event", "unknown_field"),
    ],
)
def test_a_wrong_field_is_named(api: Api, members: dict[str, Any], pointer: str, code: str) -> None:
    answer = api.client.post("/v1/webhooks", json={"url": URL} | members)

    (error,) = answer.json()["errors"]
    assert (answer.status_code, error["pointer"], error["code"]) == (422, pointer, code)
    assert not rows(api.database)


def test_a_refused_secret_is_explained_and_not_repeated(api: Api) -> None:
    answer = api.client.post("/v1/webhooks", json={"url": URL, "secret": "hunter2"})

    assert "base64 of 24 to 64 bytes" in answer.json()["detail"]
    assert "hunter2" not in answer.text
    assert (
        api.client.post("/v1/webhooks", json={"url": URL, "evnts": []}).json()["errors"][0]["did_you_mean"] == "events"
    )


def test_lists_are_paged_and_newest_first(api: Api) -> None:
    made = [register(api)["id"] for _ in range(3)]

    first = api.client.get("/v1/webhooks?limit=2").json()
    second = api.client.get(f"/v1/webhooks?limit=2&after={first['next']}").json()

    newest_first = sorted(made, reverse=True)
    assert [one["id"] for one in first["data"] + second["data"]] == newest_first
    assert (first["has_more"], second["has_more"], second["next"]) == (True, False, None)


def test_a_tenant_has_at_most_so_many(api: Api) -> None:
    made = [register(api) for _ in range(MAX_STANDING)]
    refused = api.client.post("/v1/webhooks", json={"url": URL})
    api.client.delete(made[0]["urls"]["self"])

    assert (refused.status_code, refused.json()["code"]) == (409, "not_editable")
    assert "delete one" in refused.json()["detail"]
    register(api)


def test_a_deleted_webhook_is_gone(api: Api) -> None:
    made = register(api)
    api.client.post(made["urls"]["test"])

    assert api.client.delete(made["urls"]["self"]).status_code == 204
    assert api.client.get(made["urls"]["self"]).status_code == 404
    assert api.client.delete(made["urls"]["self"]).status_code == 404
    assert api.client.get("/v1/deliveries").json()["data"] == []


def test_a_rotated_webhook_has_two_secrets_for_a_day_and_never_three(api: Api) -> None:
    made = register(api, secret=SECRET)

    first = api.client.post(made["urls"]["rotate"]).json()
    second = api.client.post(made["urls"]["rotate"], json={}).json()

    assert len({SECRET, first["secret"], second["secret"]}) == 3
    (row,) = rows(api.database)
    assert (opened(api, row.secret), opened(api, row.old_secret)) == (second["secret"], first["secret"])
    assert (row.old_secret_until - row.created_at).total_seconds() == pytest.approx(86400, abs=60)
    assert second["old_secret_until"] is not None
    with api.database.write() as connection:
        connection.execute(update(webhooks).values(old_secret_until=after_now(-1)))
    assert api.client.get(made["urls"]["self"]).json()["old_secret_until"] is None


def test_a_test_is_a_delivery_and_rings_the_courier(api: Api) -> None:
    made = register(api)

    answer = api.client.post(made["urls"]["test"])

    delivery = answer.json()
    assert (answer.status_code, api.bell.courier_rings) == (202, 1)
    assert (delivery["webhook"], delivery["event"], delivery["status"]) == (made["id"], "webhook.test", "pending")
    assert (delivery["url"], delivery["job"], delivery["attempt"], delivery["log"]) == (URL, None, 0, [])
    assert api.client.get(made["urls"]["deliveries"]).json()["data"] == [delivery]


def test_a_disabled_webhook_is_sent_nothing_until_it_is_enabled(api: Api) -> None:
    made = register(api)
    disable(api.database, made["id"])

    shown = api.client.get(made["urls"]["self"]).json()
    refused = api.client.post(made["urls"]["test"])
    enabled = api.client.post(made["urls"]["enable"])

    assert (shown["status"], shown["disabled_reason"]) == ("disabled", "gone")
    assert shown["failing_since"] is not None
    assert (refused.status_code, refused.json()["code"]) == (409, "not_editable")
    assert enabled.status_code == 200
    assert enabled.json() == {name: value for name, value in made.items() if name != "secret"}
    assert api.client.post(made["urls"]["test"]).status_code == 202


def every_request(api: Api, webhook_id: str, headers: dict[str, str]) -> list[int]:
    url = f"/v1/webhooks/{webhook_id}"
    send = api.client.request
    paths = [("GET", url), ("POST", f"{url}/rotate"), ("POST", f"{url}/test"), ("POST", f"{url}/enable")]
    return [send(method, path, headers=headers).status_code for method, path in [*paths, ("DELETE", url)]]


def test_a_foreign_webhook_looks_unknown_everywhere(make_api: Callable[..., Api]) -> None:
    api = make_api(outbound=public_hosts(), auth="keys")
    with api.database.write() as connection:
        create_tenant(connection, "other", "Other")
    mine, theirs = key_for(api, "webhooks"), key_for(api, "webhooks", tenant="other")
    made = api.client.post("/v1/webhooks", json={"url": URL}, headers=mine).json()
    before = rows(api.database)

    assert every_request(api, made["id"], theirs) == [404] * 5
    assert every_request(api, new_id("whe"), mine) == [404] * 5
    assert every_request(api, "x", mine) == [404] * 5
    assert api.client.get("/v1/webhooks", headers=theirs).json()["data"] == []
    assert rows(api.database) == before
    assert every_request(api, made["id"], mine) == [200, 200, 202, 200, 204]


def test_webhooks_are_a_scope_of_their_own(make_api: Callable[..., Api]) -> None:
    api = make_api(outbound=public_hosts(), auth="keys")
    jobs_only = key_for(api, "jobs:read", "jobs:write", "admin")

    assert every_request(api, new_id("whe"), jobs_only) == [403] * 5
    assert every_request(api, new_id("whe"), {}) == [401] * 5
    assert api.client.get("/v1/webhooks", headers=jobs_only).status_code == 403
    assert api.client.post("/v1/webhooks", json={"url": URL}, headers=jobs_only).status_code == 403


def test_a_server_without_a_key_says_so_and_does_everything_else(make_api: Callable[..., Api]) -> None:
    api = make_api(outbound=public_hosts(), vault=Vault([]))

    refused = api.client.post("/v1/webhooks", json={"url": URL})
    job = api.client.post("/v1/jobs", json={"prompt": "x", "webhook": {"url": URL, "secret": SECRET}})

    for answer in (refused, job):
        assert (answer.status_code, answer.json()["code"]) == (503, "unavailable")
        assert "DARKROOM_SECRET_KEY" in answer.json()["detail"]
    assert not rows(api.database)
    assert api.client.get("/v1/webhooks").json()["data"] == []
    api.submit()


@pytest.mark.parametrize("query", ["limit=0", "limit=101", "after=whe_1", "after=job_" + "0" * 32, "status=enabled"])
def test_no_query_parameter_is_ignored(api: Api, query: str) -> None:
    assert api.client.get(f"/v1/webhooks?{query}").status_code == 422


@pytest.mark.parametrize("verb", ["test", "enable"])
def test_what_takes_no_body_refuses_one(api: Api, verb: str) -> None:
    assert api.client.post(register(api)["urls"][verb], json={}).status_code == 422


def test_a_wrong_rotation_changes_nothing(api: Api) -> None:
    made = register(api)
    before = rows(api.database)

    answers = [api.client.post(made["urls"]["rotate"], json=body) for body in ({"secret": "x"}, {"secrt": SECRET})]

    assert [answer.status_code for answer in answers] == [422, 422]
    assert rows(api.database) == before
