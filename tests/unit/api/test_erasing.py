"""Erasing a job: `DELETE /v1/jobs/{id}`, and 410 for whatever is asked of it afterwards."""

from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import select

from common.db.claims import finish
from common.db.jobs import find_job
from common.db.reports import report_preview
from common.db.tables import metadata as schema
from common.db.tenants import create_key, create_tenant
from common.domain.lifecycle import JobState
from common.ids import new_id
from tests.making import make_image
from tests.unit.api.conftest import Api, Json, data_url

SECRET = "my grandmother"
NOTES = {
    "prompt": SECRET,
    "negative_prompt": SECRET,
    "tags": [SECRET],
    "metadata": {SECRET: SECRET},
    "external_id": SECRET,
    "steps": [{"prompt": SECRET}, {"negative_prompt": SECRET}],
}


def erase(api: Api, job: Json) -> int:
    answer = api.client.delete(job["urls"]["self"])
    assert answer.content == b""
    return answer.status_code


def words(api: Api) -> str:
    """Every row of every table, as text."""
    with api.database.read() as connection:
        return "\n".join(str(tuple(row)) for table in schema.sorted_tables for row in connection.execute(select(table)))


def look(api: Api, job: Json) -> Any:
    with api.database.read() as connection:
        return find_job(connection, "default", job["id"])


def test_a_finished_job_is_gone_for_every_question(api: Api) -> None:
    key = {"Idempotency-Key": "k"}
    job = api.client.post("/v1/jobs", json={"prompt": "x"}, headers=key).json()
    api.develop()
    url = job["urls"]["self"]

    assert erase(api, job) == 204

    answers = [
        api.client.get(url),
        api.client.get(f"{url}/images/0"),
        api.client.get(f"{url}/grid"),
        api.client.get(f"{url}/preview"),
        api.client.post(f"{url}/cancel"),
        api.client.post(f"{url}/retry"),
        api.client.patch(url, json={"tags": []}),
        api.client.post("/v1/jobs", json={"image": {"job": job["id"]}, "prompt": "x"}),
        api.client.post("/v1/jobs", json={"prompt": "x"}, headers=key),
        api.client.get(url, headers={"If-None-Match": "*"}),
    ]
    assert [(answer.status_code, answer.json()["code"]) for answer in answers] == [(410, "gone")] * len(answers)


def test_lists_leave_it_out(api: Api) -> None:
    kept, erased = api.submit(), api.submit()
    erase(api, erased)

    assert [job["id"] for job in api.client.get("/v1/jobs").json()["data"]] == [kept["id"]]
    assert api.client.get("/v1/jobs?status=canceled").json()["data"] == []


def test_erasing_again_is_harmless(api: Api) -> None:
    job = api.submit()

    assert [erase(api, job), erase(api, job)] == [204, 204]


@pytest.mark.parametrize("job_id", ["x", new_id("job"), new_id("bat"), "a" * 5000])
def test_an_unknown_job_is_404(api: Api, job_id: str) -> None:
    answer = api.client.delete(f"/v1/jobs/{job_id}")

    assert (answer.status_code, answer.json()["code"]) == (404, "not_found")


def test_a_job_of_another_tenant_looks_unknown_and_stays(make_api: Callable[..., Api], api: Api) -> None:
    job = api.submit()
    with api.database.write() as connection:
        create_tenant(connection, "other", "Other")
        key = create_key(connection, "other", name="t", scopes=["jobs:write"], expires_seconds=None)

    answer = make_api(auth="keys").client.delete(f"/v1/jobs/{job['id']}", headers={"Authorization": f"Bearer {key}"})

    assert (answer.status_code, answer.json()["code"]) == (404, "not_found")
    assert api.client.get(job["urls"]["self"]).json() == job


def test_a_queued_job_is_canceled_and_none_of_its_words_is_left(api: Api) -> None:
    job = api.submit(image=data_url(), **NOTES)
    assert SECRET in words(api)

    erase(api, job)

    assert SECRET not in words(api)
    assert look(api, job).state is JobState.CANCELED


def test_a_running_job_gets_the_wish_and_what_it_still_makes_is_seen_by_nobody(api: Api) -> None:
    job = api.submit(**NOTES)
    got = api.start()
    api.report(got, 1, 30)
    with api.database.write() as connection:
        report_preview(connection, got.id, got.fence, b"preview")
    erase(api, job)
    api.report(got, 2, 30)

    with api.database.write() as connection:
        report_preview(connection, got.id, got.fence, b"preview")
        told = [{"code": "prompt_truncated", "pointer": "/prompt", "detail": SECRET}]
        assert finish(connection, got, [make_image(got)], {}, warnings=told)

    assert SECRET not in words(api)
    assert "b'preview'" not in words(api)
    assert look(api, job).expires_at <= look(api, job).finished_at
    assert {api.client.get(job["urls"]["self"] + path).status_code for path in ("", "/images/0", "/preview")} == {410}


def test_a_body_or_a_parameter_is_refused(api: Api) -> None:
    url = api.submit()["urls"]["self"]

    assert api.client.request("DELETE", url, json={"why": "x"}).status_code == 422
    assert api.client.delete(f"{url}?force=1").status_code == 422
    assert api.client.get(url).status_code == 200


def test_an_image_that_another_job_uses_stays_with_that_one(api: Api) -> None:
    first, second = (api.submit(image=data_url()) for _ in range(2))
    erase(api, first)

    got = api.start()
    assert (got.id, got.inputs["image"].key in api.store.objects) == (second["id"], True)
