"""Changing a job that waits: `PATCH /v1/jobs/{id}`."""

from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import select, update

from common.db.tables import api_keys, job_events, jobs
from common.db.tenants import create_key, create_tenant
from common.ids import new_id
from tests.unit.api.conftest import Api, Json, data_url


def patch(api: Api, job: Json, **members: Any) -> Any:
    return api.client.patch(job["urls"]["self"], json=members)


def events(api: Api, job: Json) -> list[tuple[int, str]]:
    query = select(job_events.c.version, job_events.c.kind).where(job_events.c.job_id == job["id"])
    with api.database.read() as connection:
        return [tuple(row) for row in connection.execute(query.order_by(job_events.c.version))]


def test_a_queued_job_takes_another_priority_tags_and_metadata(api: Api) -> None:
    job = api.submit(tags=["old"], metadata={"k": "v"})

    answer = patch(api, job, priority="high", tags=["new"], metadata={"a": "b"})

    assert answer.status_code == 200
    changed = answer.json()
    assert (changed["priority"], changed["tags"], changed["metadata"]) == ("high", ["new"], {"a": "b"})
    assert changed == api.client.get(job["urls"]["self"]).json()
    assert {name for name in job if changed[name] != job[name]} == {"version", "priority", "tags", "metadata"}


def test_what_is_left_out_stays(api: Api) -> None:
    job = api.submit(tags=["old"], metadata={"k": "v"}, priority="low")

    changed = patch(api, job, tags=[]).json()

    assert (changed["priority"], changed["tags"], changed["metadata"]) == ("low", [], {"k": "v"})


def test_an_edit_is_a_version_an_event_and_another_tag(api: Api) -> None:
    job = api.submit()
    before = api.client.get(job["urls"]["self"]).headers["etag"]

    answer = patch(api, job, tags=["new"])

    assert answer.json()["version"] == job["version"] + 1
    assert answer.headers["etag"] != before
    assert events(api, job) == [(1, "job.queued"), (2, "job.edited")]


def test_a_held_job_can_be_changed(api: Api) -> None:
    job = api.submit()
    with api.database.write() as connection:
        connection.execute(update(jobs).values(held="paused"))

    assert patch(api, job, priority="high").status_code == 200


def test_another_priority_is_another_place_in_the_order_of_service_and_the_same_one_is_none(api: Api) -> None:
    made = [api.submit() for _ in range(4)]
    patch(api, made[1], priority="normal")
    patch(api, made[3], priority="high")

    assert [api.start().id for _ in made] == [made[number]["id"] for number in (0, 3, 1, 2)]


@pytest.mark.parametrize("state", ["running", "succeeded", "canceled"])
def test_a_job_that_is_not_queued_any_more_is_left_as_it_is(api: Api, state: str) -> None:
    job = api.submit()
    {"running": api.start, "succeeded": api.develop, "canceled": lambda: api.client.post(job["urls"]["cancel"])}[
        state
    ]()
    before = api.client.get(job["urls"]["self"]).json()

    answer = patch(api, job, priority="high", tags=["new"])

    assert (answer.status_code, answer.json()["code"]) == (409, "not_editable")
    assert api.client.get(job["urls"]["self"]).json() == before


@pytest.mark.parametrize(
    ("members", "pointer", "code"),
    [
        ({}, "", "validation_error"),
        ({"priority": "urgent"}, "/priority", "validation_error"),
        ({"priority": None}, "/priority", "validation_error"),
        ({"tags": None}, "/tags", "validation_error"),
        ({"tags": ["x"] * 11}, "/tags", "validation_error"),
        ({"tags": [""]}, "/tags/0", "validation_error"),
        ({"metadata": {"k": 1}}, "/metadata/k", "validation_error"),
        ({"metadata": {str(number): "" for number in range(17)}}, "/metadata", "validation_error"),
        ({"priorty": "high"}, "/priorty", "unknown_field"),
        ({"prompt": "another"}, "/prompt", "unknown_field"),
    ],
)
def test_a_wrong_change_is_refused_by_its_field(api: Api, members: Json, pointer: str, code: str) -> None:
    job = api.submit()

    answer = patch(api, job, **members)

    assert answer.status_code == 422
    (problem,) = answer.json()["errors"]
    assert (problem["pointer"], problem["code"]) == (pointer, code)
    assert api.client.get(job["urls"]["self"]).json() == job


def test_a_misspelt_field_is_guessed(api: Api) -> None:
    problem = patch(api, api.submit(), priorty="high").json()["errors"][0]
    wrong = patch(api, api.submit(), priority="urgent").json()["errors"][0]

    assert problem["did_you_mean"] == "priority"
    assert wrong["allowed"] == ["high", "normal", "low"]


@pytest.mark.parametrize("content", [b"", b"[]", b"{", b'{"tags": [], "tags": []}'])
def test_a_body_that_is_no_json_object_is_refused(api: Api, content: bytes) -> None:
    headers = {"Content-Type": "application/json"}

    answer = api.client.patch(api.submit()["urls"]["self"], content=content, headers=headers)

    assert (answer.status_code, answer.json()["code"]) == (400, "invalid_json")


def test_a_form_is_refused(api: Api) -> None:
    url = api.submit()["urls"]["self"]

    assert api.client.patch(url, data={"priority": "high"}).status_code == 415
    assert api.client.patch(url, files={"tags": (None, "x")}).status_code == 415


@pytest.mark.parametrize("job_id", ["x", new_id("job"), new_id("bat")])
def test_an_unknown_job_is_404(api: Api, job_id: str) -> None:
    assert api.client.patch(f"/v1/jobs/{job_id}", json={"tags": []}).status_code == 404


def test_a_key_changes_its_tenants_jobs_only_and_to_its_own_priorities(make_api: Callable[..., Api], api: Api) -> None:
    job = api.submit()
    guarded = make_api(auth="keys")
    with api.database.write() as connection:
        create_tenant(connection, "other", "Other")
        stranger = create_key(connection, "other", name="t", scopes=["jobs:write"], expires_seconds=None)
        own = create_key(connection, "default", name="t", scopes=["jobs:write"], expires_seconds=None)
        connection.execute(update(api_keys).values(max_priority="low"))

    def send(key: str, **members: Any) -> tuple[int, str | None]:
        headers = {"Authorization": f"Bearer {key}"}
        answer = guarded.client.patch(f"/v1/jobs/{job['id']}", json=members, headers=headers)
        return answer.status_code, answer.json().get("code")

    assert send(stranger, tags=["x"]) == (404, "not_found")
    assert send(own, priority="normal") == (403, "forbidden")
    assert send(own, priority="low", tags=["x"]) == (200, None)


def test_a_changed_image_job_keeps_what_it_edits(api: Api) -> None:
    job = api.submit(image=data_url())
    patch(api, job, priority="high")

    assert set(api.start().inputs) == {"image"}
