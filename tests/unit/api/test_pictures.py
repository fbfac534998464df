"""Masks, chains, grids and previews over HTTP."""

import json
from dataclasses import replace
from typing import Any

import pytest

from api.model_schema import model_schema
from api.schemas.job import Job
from common.catalogue_file import load_catalogue
from common.db import claims, reports
from common.domain.capabilities import FAMILIES, Task
from common.domain.job import GRID_INDEX, Progress, StoredImage
from common.domain.settling import Given, settle
from common.domain.wishes import wishes_of
from common.requests.job import JobRequest
from common.settings import Settings
from tests.unit.api.conftest import Api, data_url
from tests.unit.api.fakes import picture

CATALOGUE = load_catalogue(Settings())


def test_a_form_with_a_mask_is_an_inpainting(api: Api) -> None:
    files = {"image": ("a.png", picture()), "mask": ("b.png", picture(64, 32))}
    fields = {"prompt": "x", "mask_blur": "4", "inpaint_area": "masked", "output.format": "jpeg"}
    answer = api.client.post("/v1/jobs", data=fields, files=files)
    job = Job.model_validate(answer.json())
    assert (answer.status_code, job.task) == (202, "inpaint")
    assert {one.code for one in job.warnings} == {"mask_resized", "lossy_output"}
    assert (job.params["mask_blur"], job.params["inpaint_area"]) == (4, "masked")
    assert api.start().inputs.keys() == {"image", "mask"}


def test_a_chain_tells_its_passes_and_the_steps_of_all(api: Api) -> None:
    steps: list[dict[str, Any]] = [{}, {"strength": 0.5, "prompt": "y"}]
    job = Job.model_validate(api.submit(steps=steps, num_inference_steps=10, width=64, height=64, seed=5))
    assert job.effective_steps == 15
    assert [one["effective_steps"] for one in job.params["passes"]] == [10, 5]
    assert [one["prompt"] for one in job.params["steps"]] == ["a cat", "y"]
    assert [one["seed"] for one in job.params["steps"]] == [5, 5]


def test_what_will_run_can_be_asked_for_again(api: Api) -> None:
    """The parameters of a job, sent as a request, are the same job."""
    first = api.submit(steps=[{}, {"strength": 0.5}], keep="all", num_inference_steps=10)
    params = {name: value for name, value in first["params"].items() if name not in {"passes", "num_images"}}
    again = api.client.post("/v1/jobs", json=params)
    assert again.status_code == 202, again.text
    assert again.json()["params"] == first["params"]


def test_a_grid_is_fetched_beside_the_images(api: Api) -> None:
    api.submit(output={"grid": True})
    job = api.start()
    image = StoredImage(0, "results/a.png", 7, 64, 64, "image/png", 3, "ab" * 32)
    grid = replace(image, index=GRID_INDEX, key="results/grid.png")
    api.store.put(grid.key, b"sheet", "image/png")
    assert api.client.get(f"/v1/jobs/{job.id}/grid").status_code == 404
    with api.database.write() as connection:
        assert claims.finish(connection, job, [image], {}, grid=grid)
    shown = Job.model_validate(api.client.get(f"/v1/jobs/{job.id}").json())
    assert shown.grid is not None
    answer = api.client.get(shown.grid.url, params={"download": "true"})
    assert answer.content == b"sheet"
    assert f"{job.id}-grid.png" in answer.headers["content-disposition"]


def test_a_preview_is_there_while_the_job_runs(api: Api) -> None:
    address = api.submit()["urls"]["preview"]
    assert api.client.get(address).status_code == 204
    job = api.start()
    api.report(job, 1, 4)
    with api.database.write() as connection:
        reports.report_preview(connection, job.id, job.fence, b"rough")
    answer = api.client.get(address)
    assert (answer.content, answer.headers["content-type"]) == (b"rough", "image/jpeg")
    again = api.client.get(address, headers={"If-None-Match": answer.headers["etag"]})
    assert again.status_code == 304
    assert api.client.get(f"/v1/jobs/job_{'0' * 32}/preview").status_code == 404


def test_progress_counts_the_steps_of_all_passes(api: Api) -> None:
    api.submit(steps=[{}, {"strength": 0.5}], num_inference_steps=10, num_images=2)
    job = api.start()
    with api.database.write() as connection:
        reports.report_progress(connection, "default", job.id, job.fence, 1, Progress("denoising", 15, 30))
    assert api.client.get(f"/v1/jobs/{job.id}").json()["progress"]["value"] == 0.5


@pytest.mark.parametrize("model_id", [card.id for card in CATALOGUE])
def test_a_models_schema_says_what_settling_allows(api: Api, model_id: str) -> None:
    """Parity of catalogue and checks: every listed task and scheduler settles, every other one is refused."""
    card = CATALOGUE.require(model_id)
    detail = api.client.get(f"/v1/models/{model_id}").json()
    fields = detail["parameters"]["properties"]
    assert fields["task"]["anyOf"][0]["enum"] == sorted(card.tasks)
    assert fields["scheduler"]["anyOf"][0]["enum"] == list(card.capability.schedulers) == detail["schedulers"]
    assert fields.keys() <= JobRequest.model_fields.keys()
    assert ("mask" in fields) == (Task.INPAINT in card.tasks)
    json.dumps(model_schema(card, CATALOGUE))
    for task in Task:
        request = {"model": model_id, "prompt": "x", "task": task}
        given = Given(None if task is Task.TXT2IMG else (512, 512), has_mask=task is Task.INPAINT)
        if task in card.tasks:
            assert settle(wishes_of(request), CATALOGUE, given, random_seed=0).task is task
        else:
            answer = api.client.post("/v1/jobs", json=request | inputs_of(task))
            (problem,) = answer.json()["errors"]
            assert (answer.status_code, problem["pointer"], problem["allowed"]) == (422, "/task", sorted(card.tasks))


def inputs_of(task: Task) -> dict[str, Any]:
    own = {"image": data_url()} if task is not Task.TXT2IMG else {}
    return own | ({"mask": data_url()} if task is Task.INPAINT else {})


@pytest.mark.parametrize("model_id", [card.id for card in CATALOGUE])
def test_what_a_model_cannot_do_is_refused_with_what_it_can(api: Api, model_id: str) -> None:
    card = CATALOGUE.require(model_id)
    task = sorted(card.tasks)[0]
    base = {"model": model_id, "prompt": "x", "task": task} | inputs_of(task)
    (scheduler,) = api.client.post("/v1/jobs", json=base | {"scheduler": "none"}).json()["errors"]
    assert scheduler["allowed"] == list(card.capability.schedulers)
    (side,) = api.client.post("/v1/jobs", json=base | {"width": 68}).json()["errors"]
    assert side["pointer"] == "/width"
    if FAMILIES[card.family].size_step == 64:
        (side,) = api.client.post("/v1/jobs", json=base | {"width": 136}).json()["errors"]
        assert side["allowed"] == {"multipleOf": 64}
    (adapter,) = api.client.post("/v1/jobs", json=base | {"adapters": [{"id": "nothing"}]}).json()["errors"]
    assert (adapter["pointer"], adapter["allowed"]) == ("/adapters/0/id", sorted(card.adapters))
