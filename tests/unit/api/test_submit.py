"""A job that is accepted."""

from collections.abc import Callable
from json import dumps

import pytest
from sqlalchemy import select

from common.db.tables import job_requests
from common.db.tenants import create_key
from common.settings import Settings
from tests.unit.api.conftest import Api, data_url
from tests.unit.api.fakes import picture


def test_a_submit_answers_202_with_its_place_and_the_whole_job(api: Api) -> None:
    response = api.client.post("/v1/jobs", json={"prompt": "a red cat", "image": data_url(), "seed": 5})

    job = response.json()
    assert response.status_code == 202
    assert response.headers["location"] == job["urls"]["self"] == f"http://127.0.0.1:8000/v1/jobs/{job['id']}"
    assert (job["status"], job["version"], job["task"], job["model"]) == ("queued", 1, "img2img", "demo")
    assert job["params"]["seed"] == 5
    assert api.client.get(job["urls"]["self"]).json() == job


def test_the_defaults_are_those_of_the_first_model_of_the_catalogue(api: Api) -> None:
    job = api.submit(image=data_url())

    assert job["params"]["strength"] == 0.6
    assert job["params"]["num_inference_steps"] == 30
    assert job["effective_steps"] == 18
    assert (job["params"]["width"], job["params"]["height"]) == (160, 104)


def test_a_null_means_the_default(api: Api) -> None:
    job = api.submit(image=data_url(), strength=None, seed=None, task=None)

    assert job["params"]["strength"] == 0.6


def test_a_form_and_json_make_the_same_job(api: Api) -> None:
    fields = {
        "prompt": "a cat",
        "strength": "0.6",
        "num_images": "2",
        "seed": "9",
        "deterministic": "true",
        "output.format": "jpeg",
        "output.quality": "80",
        "metadata.shelf": "7",
        "tags": ["a", "b"],
    }
    form = api.client.post("/v1/jobs", data=fields, files={"image": ("cat.png", picture())}).json()
    members = {
        "prompt": "a cat",
        "strength": 0.6,
        "num_images": 2,
        "seed": 9,
        "deterministic": True,
        "output": {"format": "jpeg", "quality": 80},
        "metadata": {"shelf": "7"},
        "tags": ["a", "b"],
    }
    json = api.client.post("/v1/jobs", json=members | {"image": data_url()}).json()
    one_part = api.client.post(
        "/v1/jobs",
        files=[("request", (None, dumps(members).encode())), ("image", ("cat.png", picture()))],
    ).json()

    apart = {"id", "created_at", "deadline_at", "urls", "queue"}
    assert _without(form, apart) == _without(json, apart) == _without(one_part, apart)
    assert len(api.store.objects) == 1


def test_a_request_part_may_be_a_file_too(api: Api) -> None:
    request = ("request.json", b'{"prompt": "x"}', "application/json")
    files = [("request", request), ("image", ("cat.png", picture(), "image/png"))]

    assert api.client.post("/v1/jobs", files=files).status_code == 202


def test_the_image_is_kept_clean_and_the_request_without_its_pixels(api: Api) -> None:
    job = api.submit(image=data_url())

    ((key, stored),) = api.store.objects.items()
    assert key.startswith("inputs/default/")
    assert stored == b"clean " + picture()
    with api.database.read() as connection:
        row = connection.execute(select(job_requests).where(job_requests.c.job_id == job["id"])).one()
    assert row.inputs["image"]["key"] == key
    assert row.request == {"prompt": "a cat", "image": {"sha256": row.inputs["image"]["sha256"]}}


def test_the_bell_is_rung_once_per_job(api: Api) -> None:
    api.submit()

    assert api.bell.rings == [("default", 1)]


def test_the_bell_is_rung_after_the_commit(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    monkeypatch.setattr(api.bell, "ring", lambda pool, jobs: seen.append(api.count_jobs()))

    api.submit()

    assert seen == [1]


def test_seeds_are_random_when_none_is_given(api: Api) -> None:
    seeds = {api.submit()["params"]["seed"] for _ in range(5)}

    assert len(seeds) == 5


@pytest.mark.parametrize(
    ("members", "warning"),
    [
        ({"image": data_url(), "width": 256, "height": 256}, {"code": "size_adjusted", "pointer": "/height"}),
        ({"negative_prompt": "x", "guidance_scale": 1}, {"code": "guidance_off", "pointer": "/negative_prompt"}),
        ({"output": {"quality": 50}}, {"code": "lossless_format", "pointer": "/output/quality"}),
    ],
)
def test_what_is_not_done_as_asked_is_warned_of(api: Api, members: dict[str, object], warning: dict[str, str]) -> None:
    assert api.submit(**members)["warnings"] == [warning]


def test_a_dry_run_tells_everything_and_stores_nothing(api: Api) -> None:
    response = api.client.post("/v1/jobs?dry_run=true", json={"prompt": "x", "image": data_url(), "seed": 3})

    answer = response.json()
    assert response.status_code == 200
    assert answer["feasible"] is True
    assert answer["effective_params"]["seed"] == 3
    assert answer["estimate"]["run_seconds"] > 0
    assert api.has_stored_nothing()


def test_a_dry_run_refuses_what_a_submit_refuses(api: Api) -> None:
    assert api.client.post("/v1/jobs?dry_run=true", json={"prompt": "x", "strength": 1.5}).status_code == 422


def test_a_key_may_not_go_above_its_lane(make_api: Callable[..., Api]) -> None:
    api = make_api(auth="keys")
    with api.database.write() as connection:
        key = create_key(connection, "default", name="t", scopes=["jobs:write"], expires_seconds=None)
    headers = {"Authorization": f"Bearer {key}"}

    refused = api.client.post("/v1/jobs", json={"prompt": "x", "priority": "high"}, headers=headers)
    accepted = api.client.post("/v1/jobs", json={"prompt": "x", "priority": "low"}, headers=headers)

    assert (refused.status_code, refused.json()["code"]) == (403, "forbidden")
    assert accepted.json()["priority"] == "low"


def test_an_empty_prompt_is_fine_for_img2img_only(api: Api) -> None:
    assert api.client.post("/v1/jobs", json={"image": data_url()}).status_code == 202
    assert api.client.post("/v1/jobs", json={"prompt": " "}).json()["errors"][0]["pointer"] == "/prompt"


def _without(job: dict[str, object], names: set[str]) -> dict[str, object]:
    return {name: value for name, value in job.items() if name not in names}


def test_behind_a_proxy_every_url_starts_with_the_public_one(make_api: Callable[..., Api]) -> None:
    api = make_api(public_url="https://darkroom.example/")
    answer = api.client.post("/v1/jobs", json={"prompt": "a red circle"})
    assert answer.headers["location"].startswith("https://darkroom.example/v1/jobs/")
    assert answer.json()["urls"]["self"] == answer.headers["location"]


def test_a_public_url_without_a_scheme_is_refused_at_start() -> None:
    with pytest.raises(ValueError, match="public_url"):
        Settings(public_url="darkroom.example")
