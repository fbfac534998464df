"""Looking at batches, their lists, and who may: `GET /v1/batches`."""

from collections.abc import Callable
from typing import Any

import pytest

from api.schemas.batches import Batch, BatchPage
from common.db import batch_work
from common.db.tenants import create_tenant
from tests.unit.api.conftest import Api
from tests.unit.api.tending import end, hand_in, look, queue, reject, settle, take
from tests.unit.api.test_auth import key_for

REQUEST = {"items": [{"prompt": "x"}, {"prompt": "y", "custom_id": "second"}]}


def test_a_batch_is_looked_at_with_a_tag_that_changes_with_its_counts(api: Api) -> None:
    batch = hand_in(api, **REQUEST)
    url = f"/v1/batches/{batch['id']}"
    tag = api.client.get(url).headers["etag"]

    same = api.client.get(url, headers={"If-None-Match": tag})
    jobs = queue(api, batch, ["0", "second"])
    queued = api.client.get(url, headers={"If-None-Match": tag})
    end(api, jobs[:1])
    failed = api.client.get(url, headers={"If-None-Match": queued.headers["etag"]})

    assert (same.status_code, same.content) == (304, b"")
    assert same.headers["retry-after"] == "1"
    assert (queued.status_code, failed.status_code) == (200, 200)
    assert queued.json()["counts"]["queued"] == 2
    assert failed.json()["counts"]["failed"] == 1


def test_a_batch_that_is_over_is_not_to_be_polled(api: Api) -> None:
    batch = hand_in(api, **REQUEST)
    end(api, queue(api, batch, ["0", "second"]), "canceled")

    over = settle(api, batch)
    answer = api.client.get(f"/v1/batches/{batch['id']}")

    assert (over["status"], over["counts"]["canceled"]) == ("completed", 2)
    assert "retry-after" not in answer.headers


def test_an_error_of_the_batch_as_a_whole_is_of_no_line(api: Api) -> None:
    batch = hand_in(api)
    work = take(api, batch)
    missing = {"line": None, "pointer": "", "code": "input_missing", "detail": "the manifest is gone"}
    with api.database.write() as connection:
        assert batch_work.reject(connection, work, [missing], 1)

    assert Batch.model_validate(look(api, batch)).errors[0].line is None


def test_a_rejected_batch_tells_its_lines(api: Api) -> None:
    batch = hand_in(api)
    reject(api, batch)

    seen = look(api, batch)

    Batch.model_validate(seen)
    assert (seen["status"], seen["error_count"], seen["counts"]["failed"]) == ("rejected", 1, 1)
    assert (seen["errors"][0]["line"], seen["errors"][0]["pointer"]) == (0, "/strength")


@pytest.mark.parametrize("batch_id", ["x", "bat_" + "0" * 32, "job_" + "0" * 32, "bat_" + "A" * 32])
@pytest.mark.parametrize("way", ["", "/jobs", "/cancel", "/pause", "/resume", "/retry"])
def test_what_is_no_batch_is_not_found(api: Api, way: str, batch_id: str) -> None:
    method = "GET" if way in ("", "/jobs") else "POST"

    answer = api.client.request(method, f"/v1/batches/{batch_id}{way}")

    assert (answer.status_code, answer.json()["code"]) == (404, "not_found")


@pytest.mark.parametrize("way", ["", "jobs", "results", "archive", "events", "cancel", "pause", "resume", "retry"])
@pytest.mark.parametrize("batch_id", ["x%00", "%00", "bat_" + "0" * 31 + "%00"])
def test_what_is_no_id_does_not_reach_the_database(api: Api, monkeypatch: Any, way: str, batch_id: str) -> None:
    # PostgreSQL refuses a text with a NUL in it.
    for asked in ("api.use_cases.look_up.list_jobs", "api.use_cases.look_at_batches.find_batch"):
        monkeypatch.setattr(asked, None)
    method = "POST" if way in ("cancel", "pause", "resume", "retry") else "GET"

    answer = api.client.request(method, f"/v1/batches/{batch_id}/{way}".rstrip("/"))

    assert (answer.status_code, answer.json()["code"]) == (404, "not_found")


def test_a_batch_of_another_tenant_is_not_found(make_api: Callable[..., Api]) -> None:
    api = make_api(auth="keys")
    with api.database.write() as connection:
        create_tenant(connection, "other", "Other")
    mine = key_for(api, "jobs:read", "jobs:write")
    foreign = key_for(api, "jobs:read", "jobs:write", tenant="other")
    batch = hand_in(api, mine)
    queue(api, batch, ["0"])

    for way in ("", "/jobs", "/cancel", "/pause", "/resume", "/retry"):
        method = "GET" if way in ("", "/jobs") else "POST"
        assert api.client.request(method, f"/v1/batches/{batch['id']}{way}", headers=foreign).status_code == 404
        assert api.client.request(method, f"/v1/batches/{batch['id']}{way}").status_code == 401
    assert api.client.get("/v1/batches", headers=foreign).json()["data"] == []
    assert api.client.get(f"/v1/jobs?batch={batch['id']}", headers=foreign).json()["data"] == []
    assert api.client.get(f"/v1/batches/{batch['id']}", headers=mine).json()["status"] == "running"


def test_reading_and_writing_batches_are_two_scopes(make_api: Callable[..., Api]) -> None:
    api = make_api(auth="keys")
    reader, writer = key_for(api, "jobs:read"), key_for(api, "jobs:write")
    batch = hand_in(api, writer)

    assert api.client.post("/v1/batches", json=REQUEST, headers=reader).status_code == 403
    assert api.client.post(f"/v1/batches/{batch['id']}/cancel", headers=reader).status_code == 403
    assert api.client.get(f"/v1/batches/{batch['id']}", headers=writer).status_code == 403
    assert api.client.get(f"/v1/batches/{batch['id']}", headers=reader).status_code == 200


def test_batches_are_listed_newest_first_page_by_page(api: Api) -> None:
    made = [hand_in(api, name=str(number))["id"] for number in range(3)]

    first = api.client.get("/v1/batches?limit=2").json()
    second = api.client.get(f"/v1/batches?limit=2&after={first['next']}").json()

    BatchPage.model_validate(first)
    assert [one["id"] for one in first["data"] + second["data"]] == made[::-1]
    assert (first["has_more"], second["has_more"], second["next"]) == (True, False, None)


def test_batches_are_listed_by_status(api: Api) -> None:
    rejected = hand_in(api)
    reject(api, rejected)
    hand_in(api)

    assert [one["id"] for one in api.client.get("/v1/batches?status=rejected").json()["data"]] == [rejected["id"]]
    assert api.client.get("/v1/batches?status=completed").json()["data"] == []
    for query in ("status=queued", "limit=0", "after=job_x", "states=running"):
        assert api.client.get(f"/v1/batches?{query}").status_code == 422


def test_the_jobs_of_a_batch_are_listed(api: Api) -> None:
    api.submit()
    batch = hand_in(api, **REQUEST)
    made = queue(api, batch, ["0", "second"])
    end(api, made[:1])
    url = f"/v1/batches/{batch['id']}/jobs"

    whole = api.client.get(url).json()
    page = api.client.get(f"{url}?limit=1").json()

    assert {one["id"] for one in whole["data"]} == set(made)
    assert {one["batch"] for one in whole["data"]} == {batch["id"]}
    assert page["has_more"]
    assert api.client.get(f"{url}?limit=1&after={page['next']}").json()["data"] == whole["data"][1:]
    assert [one["id"] for one in api.client.get(f"{url}?status=failed").json()["data"]] == made[:1]
    assert api.client.get(f"/v1/jobs?batch={batch['id']}").json() == whole
    assert api.client.get("/v1/jobs?batch=x").status_code == 422


def test_a_batch_without_jobs_has_an_empty_list_of_them(api: Api) -> None:
    batch = hand_in(api)

    assert api.client.get(f"/v1/batches/{batch['id']}/jobs").json() == {"data": [], "has_more": False, "next": None}
