"""Trying again what failed or was canceled: `POST /v1/jobs/{id}/retry`."""

from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import delete, select, update

from common.db.claims import fail
from common.db.intakes import complete, take
from common.db.intakes import fail as fail_intake
from common.db.tables import api_keys, intakes, job_requests, jobs, objects
from common.db.tenants import create_key
from common.domain.errors import JobFailure
from common.domain.job import InputRef
from common.ids import new_id
from common.outbound.addresses import Policy
from common.outbound.fetching import Outbound
from tests.unit.api.conftest import Api, Json, data_url
from tests.unit.api.fakes import picture
from tests.unit.outbound.hosts import Answers

URL = "https://pictures.example/cat.png?token=secret"
ERROR = JobFailure("lost", code="worker_lost").as_dict()


def cancel(api: Api, job: Json) -> Json:
    api.client.post(job["urls"]["cancel"])
    return job


def send(api: Api, job: Json, overrides: Json | None = None, **headers: str) -> Any:
    own = {name.replace("_", "-"): value for name, value in headers.items()}
    body = {} if overrides is None else {"json": {"overrides": overrides}}
    return api.client.post(job["urls"]["retry"], headers=own, **body)


def retry(api: Api, job: Json, **overrides: Any) -> Json:
    answer = send(api, job, overrides)
    assert answer.status_code == 202, answer.text
    made: Json = answer.json()
    return made


def refusal(api: Api, job: Json, **overrides: Any) -> tuple[int, str, str]:
    answer = send(api, job, overrides)
    problems = answer.json().get("errors") or [{"pointer": "", "code": answer.json()["code"]}]
    return answer.status_code, problems[0]["pointer"], problems[0]["code"]


def test_a_failed_job_is_tried_again_as_it_was_asked_for(api: Api) -> None:
    asked = {"image": data_url(), "strength": 0.5, "output": {"format": "jpeg"}, "priority": "low"}
    notes = {"tags": ["t"], "metadata": {"k": "v"}, "external_id": "mine"}
    first = api.submit(**asked, **notes)
    got = api.start()
    with api.database.write() as connection:
        assert fail(connection, got.id, got.fence, ERROR)

    answer = send(api, first)

    job = answer.json()
    assert (answer.status_code, answer.headers["location"]) == (202, job["urls"]["self"])
    assert (job["status"], job["retry_of"], job["version"], job["attempt"]) == ("queued", first["id"], 1, 0)
    same = ("params", "task", "model", "effective_steps", "tags", "metadata", "external_id", "priority", "warnings")
    assert {name: job[name] for name in same} == {name: first[name] for name in same}
    assert api.client.get(first["urls"]["self"]).json()["status"] == "failed"
    again = api.start()
    assert (again.id, again.inputs, again.tries) == (job["id"], got.inputs, 1)


def test_the_bell_rings_for_it(api: Api) -> None:
    job = cancel(api, api.submit())
    api.bell.rings.clear()
    retry(api, job)

    assert api.bell.rings == [("default", 1)]


def test_the_seed_that_was_told_stays_unless_another_is_wished(api: Api) -> None:
    job = cancel(api, api.submit())
    seed = job["params"]["seed"]

    assert retry(api, job)["params"]["seed"] == seed
    assert retry(api, job, num_images=2)["params"]["seed"] == seed
    assert retry(api, job, seed=7)["params"]["seed"] == 7
    assert len({retry(api, job, seed=None)["params"]["seed"] for _ in range(3)} - {seed}) > 1
    assert retry(api, cancel(api, retry(api, job, seed=7)))["params"]["seed"] == 7


def test_overrides_replace_fields_and_null_is_the_default(api: Api) -> None:
    job = cancel(api, api.submit(guidance_scale=3.0, tags=["t"], metadata={"k": "v"}, output={"format": "webp"}))

    changed = retry(api, job, guidance_scale=None, prompt="a dog", metadata={}, output=None)

    assert changed["params"]["guidance_scale"] == api.submit()["params"]["guidance_scale"]
    assert (changed["params"]["prompt"], changed["tags"], changed["metadata"]) == ("a dog", ["t"], {})
    assert changed["params"]["output"]["format"] == "png"


def test_tags_that_were_changed_meanwhile_are_the_ones_carried_over(api: Api) -> None:
    job = api.submit(tags=["old"])
    api.client.patch(job["urls"]["self"], json={"tags": ["new"], "priority": "high"})

    made = retry(api, cancel(api, job))

    assert (made["tags"], made["priority"]) == (["new"], "high")


def test_an_image_can_be_replaced_or_left_away(api: Api) -> None:
    job = cancel(api, api.submit(image=data_url()))

    assert retry(api, job, image=data_url(picture(200, 300)))["task"] == "img2img"
    assert retry(api, job, image=None)["task"] == "txt2img"
    assert retry(api, job, mask=data_url())["task"] == "inpaint"
    other, none, masked = (api.start().inputs for _ in range(3))
    assert other["image"].width == 200
    assert (none, set(masked)) == ({}, {"image", "mask"})


@pytest.mark.parametrize(
    ("overrides", "status", "pointer", "code"),
    [
        ({"strengh": 0.5}, 422, "/overrides/strengh", "unknown_field"),
        ({"strengh": None}, 422, "/overrides/strengh", "unknown_field"),
        ({"output": {"fromat": "png"}}, 422, "/overrides/output/fromat", "unknown_field"),
        ({"strength": 2}, 422, "/overrides/strength", "validation_error"),
        ({"strength": 0.001}, 422, "/overrides/num_inference_steps", "infeasible"),
        ({"model": "nope"}, 422, "/overrides/model", "unknown_model"),
        ({"image": {"data": "x"}}, 422, "/overrides/image/data", "image_unreadable"),
        ({"image": data_url(b"no picture")}, 422, "/overrides/image", "image_unreadable"),
        ({"image": {"job": new_id("job")}}, 422, "/overrides/image/job", "validation_error"),
        ({"task": "inpaint"}, 422, "/overrides/mask", "mask_missing"),
    ],
)
def test_a_wrong_override_is_refused_by_its_field(
    api: Api, overrides: Json, status: int, pointer: str, code: str
) -> None:
    job = cancel(api, api.submit(image=data_url()))

    assert refusal(api, job, **overrides) == (status, pointer, code)
    assert api.count_jobs() == 1


def test_a_misspelt_override_is_guessed(api: Api) -> None:
    answer = send(api, cancel(api, api.submit()), {"strengh": 0.5})

    assert answer.json()["errors"][0]["did_you_mean"] == "strength"


@pytest.mark.parametrize(
    "body", [{"override": {}}, {"overrides": None}, {"overrides": [1]}, {"strength": 0.5}, {"overrides": {}, "x": 1}]
)
def test_a_wrong_body_is_refused(api: Api, body: Json) -> None:
    job = cancel(api, api.submit())

    assert api.client.post(job["urls"]["retry"], json=body).status_code == 422
    assert api.client.post(job["urls"]["retry"], files={"overrides": (None, "{}")}).status_code == 415


def test_only_what_failed_or_was_canceled_is_tried_again(api: Api) -> None:
    job = api.submit()
    answers = [refusal(api, job)]
    api.develop()
    answers.append(refusal(api, job))

    assert answers == [(409, "", "not_editable")] * 2


@pytest.mark.parametrize("job_id", ["x", new_id("job"), new_id("bat")])
def test_an_unknown_job_is_404(api: Api, job_id: str) -> None:
    assert api.client.post(f"/v1/jobs/{job_id}/retry").status_code == 404


def test_a_repetition_with_a_key_answers_the_first_new_job(api: Api) -> None:
    job = cancel(api, api.submit())

    first, again = (send(api, job, {"seed": 7}, Idempotency_Key="k") for _ in range(2))
    other = send(api, job, {"seed": 8}, Idempotency_Key="k")

    assert (again.status_code, again.json()) == (202, first.json())
    assert again.headers["idempotent-replayed"] == "true"
    assert (other.status_code, other.json()["code"]) == (422, "idempotency_mismatch")
    assert api.count_jobs() == 2


@pytest.mark.parametrize("change", [delete(objects), update(objects).values(state="deleting")])
def test_an_input_that_is_no_longer_stored_is_asked_for_again(api: Api, change: Any) -> None:
    job = cancel(api, api.submit(image=data_url()))
    with api.database.write() as connection:
        connection.exec_driver_sql("DELETE FROM object_refs")
        connection.execute(change)

    assert refusal(api, job) == (422, "/overrides/image", "validation_error")
    assert retry(api, job, image=data_url())["task"] == "img2img"


@pytest.fixture
def outside(make_api: Callable[..., Api]) -> Api:
    """An API that takes public URLs of one host."""
    return make_api(outbound=Outbound(Policy(), Answers(pictures_example=[["93.184.215.14"]])))


def test_an_image_that_was_never_fetched_is_fetched_for_the_new_job(outside: Api) -> None:
    job = outside.submit(image={"url": URL})
    with outside.database.write() as connection:
        taken = take(connection, "wrk_1", 60)
        assert taken is not None
        assert fail_intake(connection, taken, ERROR)

    answer = send(outside, job)

    with outside.database.read() as connection:
        query = select(intakes.c.url, jobs.c.held).join(jobs).where(intakes.c.job_id == answer.json()["id"])
        assert tuple(connection.execute(query).one()) == (URL, "intake")
    assert (answer.json()["task"], outside.bell.courier_rings) == ("img2img", 2)


def test_a_url_is_forgotten_once_its_image_is_there_and_a_retry_takes_that_image(outside: Api) -> None:
    job = outside.submit(image={"url": URL})
    reference = InputRef("inputs/default/cat.png", "c" * 64, 1, 300, 200)
    with outside.database.write() as connection:
        taken = take(connection, "wrk_1", 60)
        assert taken is not None
        assert complete(connection, taken, reference, outside.app.state.services.catalogue)
        kept = connection.execute(select(job_requests.c.request)).scalar_one()
    assert kept["image"] == {"sha256": reference.sha256}

    retry(outside, cancel(outside, job))

    assert outside.start().inputs == {"image": reference}


def test_a_url_is_never_shown(outside: Api) -> None:
    job = cancel(outside, outside.submit(image={"url": URL}))
    outside.client.patch(job["urls"]["self"], json={"tags": ["x"]})

    shown = [outside.client.get(job["urls"]["self"]).text, send(outside, job).text, outside.client.get("/v1/jobs").text]
    shown.append(send(outside, job, {"strength": 2}).text)

    assert not any("secret" in text for text in shown)


def test_a_priority_is_carried_over_as_far_as_the_key_may_use_it(make_api: Callable[..., Api], api: Api) -> None:
    job = cancel(api, api.submit(priority="high"))
    guarded = make_api(auth="keys")
    with api.database.write() as connection:
        key = create_key(connection, "default", name="t", scopes=["jobs:write"], expires_seconds=None)
        connection.execute(update(api_keys).values(max_priority="normal"))
    url, headers = f"/v1/jobs/{job['id']}/retry", {"Authorization": f"Bearer {key}"}

    carried = guarded.client.post(url, headers=headers)
    wished = guarded.client.post(url, headers=headers, json={"overrides": {"priority": "high"}})

    assert (carried.status_code, carried.json()["priority"]) == (202, "normal")
    assert (wished.status_code, wished.json()["code"]) == (403, "forbidden")


def test_the_deadline_and_the_life_are_those_of_the_request(api: Api) -> None:
    job = retry(api, cancel(api, api.submit(deadline_seconds=60, expires_in_seconds=7200)), deadline_seconds=90)

    with api.database.read() as connection:
        kept = connection.execute(select(job_requests).where(job_requests.c.job_id == job["id"])).one()
    assert (kept.request["deadline_seconds"], kept.expires_in_seconds) == (90, 7200)
