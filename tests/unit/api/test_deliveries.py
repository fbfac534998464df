"""The log of deliveries over HTTP, and sending them again."""

from collections.abc import Callable

import pytest
from sqlalchemy import update

from api.schemas.webhooks import Delivery, DeliveryDetail
from api.use_cases import deliveries as use_cases
from common.db.tables import deliveries
from common.db.tenants import create_tenant
from common.db.types import after_now
from common.domain.webhook_events import event_id
from common.ids import new_id
from tests.unit.api.conftest import Api, Json
from tests.unit.api.endpoints import URL, announce, disable, end, public_hosts, register
from tests.unit.api.test_auth import key_for


@pytest.fixture
def api(make_api: Callable[..., Api]) -> Api:
    return make_api(outbound=public_hosts())


def told(api: Api, times: int = 1) -> list[Json]:
    """So many deliveries of as many jobs to one webhook, newest first."""
    register(api, events=["job.succeeded"])
    for _ in range(times):
        announce(api.database, api.submit()["id"], 3)
    found: list[Json] = api.client.get("/v1/deliveries").json()["data"]
    return found


def look(api: Api, delivery: Json) -> Json:
    found: Json = api.client.get(f"/v1/deliveries/{delivery['id']}").json()
    return found


def again(api: Api, delivery: Json) -> tuple[int, Json]:
    answer = api.client.post(f"/v1/deliveries/{delivery['id']}/redeliver")
    return answer.status_code, answer.json()


def test_a_delivery_says_what_goes_where(api: Api) -> None:
    (delivery,) = told(api)

    job = api.client.get("/v1/jobs").json()["data"][0]["id"]
    assert (delivery["job"], delivery["event"], delivery["url"]) == (job, "job.succeeded", URL)
    assert (delivery["event_id"], delivery["status"]) == (event_id(job, 3), "pending")
    assert (delivery["attempt"], delivery["log"], delivery["ended_at"]) == (0, [], None)
    assert delivery["next_at"] is not None
    assert look(api, delivery) == delivery | {"body": None}
    Delivery.model_validate(delivery)


def test_a_delivery_shows_its_attempts_and_what_was_sent(api: Api) -> None:
    (delivery,) = told(api)
    end(api.database)

    found = look(api, delivery)

    assert (found["status"], found["attempt"], found["next_at"]) == ("failed", 1, None)
    assert found["ended_at"] is not None
    assert found["body"] == '{"type": "x"}'
    assert found["log"][0]["response"] == "no"
    DeliveryDetail.model_validate(found)


def test_lists_are_paged_and_filtered(api: Api) -> None:
    made = told(api, 3)
    end(api.database)
    with api.database.write() as connection:
        connection.execute(
            update(deliveries).where(deliveries.c.id == made[0]["id"]).values(state="pending", ended_at=None)
        )

    def ids(query: str) -> list[str]:
        return [one["id"] for one in api.client.get(f"/v1/deliveries?{query}").json()["data"]]

    first = api.client.get("/v1/deliveries?limit=2").json()
    assert [one["id"] for one in first["data"]] == [made[0]["id"], made[1]["id"]]
    assert ids(f"after={first['next']}") == [made[2]["id"]]
    assert ids("status=pending") == [made[0]["id"]]
    assert ids(f"job={made[1]['job']}") == [made[1]["id"]]
    assert ids(f"webhook={made[1]['webhook']}&status=failed") == [made[1]["id"], made[2]["id"]]
    assert ids(f"webhook={new_id('whe')}") == []


@pytest.mark.parametrize(
    "query", ["limit=0", "after=whe_1", "job=x", "webhook=x", "status=done", "state=failed", "job=a&job=b"]
)
def test_no_query_parameter_is_ignored(api: Api, query: str) -> None:
    answer = api.client.get(f"/v1/deliveries?{query}")

    assert answer.status_code == 422
    assert answer.json()["errors"][0]["pointer"].startswith("/query/")


def test_what_was_given_up_is_sent_again_with_its_id_and_its_log(api: Api) -> None:
    (delivery,) = told(api)
    end(api.database)

    status, found = again(api, delivery)

    assert (status, found["status"], found["ended_at"]) == (202, "pending", None)
    assert (found["event_id"], len(found["log"]), found["attempt"]) == (delivery["event_id"], 1, 1)
    assert api.bell.courier_rings == 1
    assert look(api, delivery)["body"] == '{"type": "x"}'


def test_nothing_is_sent_again_to_a_disabled_webhook_or_of_an_erased_job(api: Api) -> None:
    erased, disabled = told(api, 2)
    end(api.database)
    api.client.delete(f"/v1/jobs/{erased['job']}")
    of_erased = again(api, erased)
    disable(api.database, disabled["webhook"])

    for status, problem in (of_erased, again(api, disabled)):
        assert (status, problem["code"]) == (409, "not_editable")
    assert api.client.post("/v1/deliveries/redeliver").json() == {"redelivered": 0}


def test_all_that_failed_is_sent_again_page_by_page(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(use_cases, "_PAGE", 2)
    told(api, 5)
    end(api.database)
    with api.database.write() as connection:  # another moment than that of the request, however quick that is
        connection.execute(update(deliveries).values(ended_at=after_now(-1)))

    answer = api.client.post("/v1/deliveries/redeliver")

    assert (answer.status_code, answer.json()) == (202, {"redelivered": 5})
    assert {one["status"] for one in api.client.get("/v1/deliveries").json()["data"]} == {"pending"}
    assert api.bell.courier_rings
    assert api.client.post("/v1/deliveries/redeliver").json() == {"redelivered": 0}


def test_a_redelivery_may_be_of_one_job_one_webhook_one_state_or_a_time(api: Api) -> None:
    first, second, third = told(api, 3)
    webhook = first["webhook"]

    def sent(**members: str) -> int:
        end(api.database, ended_at=after_now(-1))
        with api.database.write() as connection:
            delivered = update(deliveries).where(deliveries.c.id == third["id"])
            connection.execute(delivered.values(state="delivered"))
        answer = api.client.post("/v1/deliveries/redeliver", json=members)
        assert answer.status_code == 202, answer.text
        return int(answer.json()["redelivered"])

    assert sent() == 2
    assert sent(webhook=webhook) == 2
    assert sent(webhook=new_id("whe")) == 0
    assert sent(job=second["job"]) == 1
    assert sent(status="delivered") == 1
    assert sent(job=third["job"], status="failed") == 0
    assert sent(created_after="2001-01-01T00:00:00Z", created_before="2999-01-01T00:00:00Z") == 2
    assert sent(created_after="2998-01-01T00:00:00Z") == 0
    assert sent(created_before="2001-01-01T00:00:00+02:00") == 0


@pytest.mark.parametrize(
    ("members", "pointer"),
    [
        ({"webhook": "whe_1"}, "/webhook"),
        ({"job": "bat_" + "0" * 32}, "/job"),
        ({"status": "done"}, "/status"),
        ({"created_after": "yesterday"}, "/created_after"),
        ({"created_before": 5}, "/created_before"),
        ({"since": "2026-01-31T12:00:00Z"}, "/since"),
    ],
)
def test_a_wrong_redelivery_is_refused_by_its_field(api: Api, members: Json, pointer: str) -> None:
    answer = api.client.post("/v1/deliveries/redeliver", json=members)

    assert (answer.status_code, answer.json()["errors"][0]["pointer"]) == (422, pointer)


def test_a_foreign_delivery_looks_unknown_everywhere(make_api: Callable[..., Api], api: Api) -> None:
    (delivery,) = told(api)
    end(api.database)
    guarded = make_api(outbound=public_hosts(), auth="keys")
    with guarded.database.write() as connection:
        create_tenant(connection, "other", "Other")
    mine, theirs = key_for(guarded, "webhooks"), key_for(guarded, "webhooks", tenant="other")
    url, client = f"/v1/deliveries/{delivery['id']}", guarded.client

    assert client.get(url, headers=theirs).status_code == 404
    assert client.post(f"{url}/redeliver", headers=theirs).status_code == 404
    assert client.get(f"/v1/deliveries?webhook={delivery['webhook']}", headers=theirs).json()["data"] == []
    assert client.get(f"/v1/deliveries?job={delivery['job']}", headers=theirs).json()["data"] == []
    assert client.post("/v1/deliveries/redeliver", headers=theirs).json() == {"redelivered": 0}
    assert client.get(url, headers=mine).json()["status"] == "failed"
    assert client.post(f"{url}/redeliver", headers=mine).status_code == 202


@pytest.mark.parametrize("delivery_id", ["x", "whe_" + "0" * 32, new_id("whd")])
def test_an_unknown_delivery_is_404(api: Api, delivery_id: str) -> None:
    assert api.client.get(f"/v1/deliveries/{delivery_id}").status_code == 404
    assert api.client.post(f"/v1/deliveries/{delivery_id}/redeliver").status_code == 404


def test_deliveries_need_the_scope_of_webhooks(make_api: Callable[..., Api]) -> None:
    guarded = make_api(auth="keys")
    jobs_only = key_for(guarded, "jobs:read", "jobs:write", "admin")
    client, url = guarded.client, f"/v1/deliveries/{new_id('whd')}"

    for headers, status in ((jobs_only, 403), ({}, 401)):
        assert client.get("/v1/deliveries", headers=headers).status_code == status
        assert client.get(url, headers=headers).status_code == status
        assert client.post(f"{url}/redeliver", headers=headers).status_code == status
        assert client.post("/v1/deliveries/redeliver", headers=headers).status_code == status
