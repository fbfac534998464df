"""Probes, metrics, models, queues and the description of the surface."""

import re
from collections.abc import Callable
from threading import Event

import pytest
from starlette.testclient import TestClient

from api.main import create_app
from api.schemas.system import ModelDetail, ModelList, QueueState
from common.settings import Settings
from tests.unit.api.conftest import Api, data_url


def test_without_workers_it_is_degraded_but_ready(api: Api) -> None:
    assert api.client.get("/readyz").json() == {"status": "degraded", "workers_ready": 0, "broker": "ok"}


def test_with_a_worker_it_is_well(api: Api) -> None:
    api.submit()
    api.start()

    assert api.client.get("/readyz").json() == {"status": "ok", "workers_ready": 1, "broker": "ok"}


def test_a_broker_that_takes_no_bells_degrades_but_accepts(api: Api) -> None:
    api.bell.is_ok = False
    api.submit()
    api.start()

    answer = api.client.get("/readyz")
    assert (answer.status_code, answer.json()["status"], answer.json()["broker"]) == (200, "degraded", "degraded")


def test_a_draining_process_gets_no_more_requests(api: Api) -> None:
    draining = Event()
    settings = api.app.state.services.settings
    app = create_app(
        settings, database=api.database, store=api.store, doorbell=api.bell, decoder=api.decoder, draining=draining
    )
    with TestClient(app, base_url="http://127.0.0.1") as client:
        assert client.get("/readyz").status_code == 200
        assert "connection" not in client.get("/readyz").headers
        draining.set()

        assert client.get("/readyz").status_code == 503
        healthy = client.get("/healthz")
        assert (healthy.status_code, healthy.headers["connection"]) == (200, "close")


def test_metrics_count_requests_by_template_and_submits_by_model(api: Api) -> None:
    job = api.submit()
    api.client.get(job["urls"]["self"])
    api.client.get("/some/odd/path")

    text = api.client.get("/metrics").text

    assert 'darkroom_http_requests_total{method="GET",route="/v1/jobs/{job_id}",status="200"} 1.0' in text
    assert 'darkroom_http_requests_total{method="GET",route="unmatched",status="404"} 1.0' in text
    assert 'darkroom_submits_total{model="demo",outcome="accepted",task="txt2img"} 1.0' in text
    assert job["id"] not in text


def test_models_are_listed_with_the_default_first(api: Api) -> None:
    models = ModelList.model_validate(api.client.get("/v1/models").json())

    assert models.data[0].id == "demo"
    assert models.data[0].tasks == ["img2img", "inpaint", "txt2img"]


def test_a_model_tells_the_schema_of_its_request_with_its_own_defaults(api: Api) -> None:
    detail = ModelDetail.model_validate(api.client.get("/v1/models/sd21").json())

    fields = detail.parameters["properties"]
    assert fields["strength"]["default"] == 0.75
    assert fields["model"]["const"] == "sd21"
    assert detail.parameters["additionalProperties"] is False


def test_an_unknown_model_is_404(api: Api) -> None:
    assert api.client.get("/v1/models/nope").status_code == 404


def test_the_queue_shows_depth_and_age(api: Api) -> None:
    api.submit(priority="low")
    api.submit(priority="low")
    api.submit(image=data_url())
    api.start()

    state = QueueState.model_validate(api.client.get("/v1/queue").json())

    assert sum(lane.queued for lane in state.lanes) == 2
    assert all(lane.oldest_seconds >= 0 for lane in state.lanes)
    assert sum(one.queued for one in state.models) == 2
    assert {one.model for one in state.models} == {"demo"}
    assert state.pools[0].model_dump() == {"pool": "default", "running": 1, "workers_ready": 1}


def test_the_root_leads_to_the_documentation(api: Api) -> None:
    response = api.client.get("/")

    assert (response.status_code, response.headers["location"]) == (307, "/docs")


def test_the_documentation_can_be_switched_off(make_api: Callable[..., Api]) -> None:
    api = make_api(docs=False)

    assert {api.client.get(path).status_code for path in ("/", "/docs", "/openapi.json")} == {404}


def test_the_description_documents_both_bodies_and_problems(api: Api) -> None:
    document = api.client.get("/openapi.json").json()

    post = document["paths"]["/v1/jobs"]["post"]
    assert set(post["requestBody"]["content"]) == {"application/json", "multipart/form-data"}
    assert "application/problem+json" in post["responses"]["4XX"]["content"]
    assert "JobRequest" in document["components"]["schemas"]


@pytest.mark.parametrize(
    ("path", "method", "statuses"),
    [
        ("/v1/jobs/{job_id}", "patch", {"200", "403", "404", "409", "410", "415", "422", "503"}),
        ("/v1/jobs/{job_id}/retry", "post", {"200", "202", "403", "404", "409", "410", "415", "422", "503"}),
        ("/v1/jobs/{job_id}", "delete", {"204", "404", "503"}),
    ],
)
def test_the_description_names_the_refusals_of_what_is_done_to_a_job(
    api: Api, path: str, method: str, statuses: set[str]
) -> None:
    operation = api.client.get("/openapi.json").json()["paths"][path][method]

    assert set(operation["responses"]) == statuses | {"4XX"}
    for status, response in operation["responses"].items():
        assert (status[0] in "45") is ("application/problem+json" in response.get("content", {}))
    assert ("requestBody" in operation) is (method != "delete")


def test_the_description_tells_of_conditions_headers_and_the_types_of_pictures(api: Api) -> None:
    paths = api.client.get("/openapi.json").json()["paths"]

    look, preview = paths["/v1/jobs/{job_id}"]["get"], paths["/v1/jobs/{job_id}/preview"]["get"]
    assert list(preview["responses"]["200"]["content"]) == ["image/jpeg"]
    for operation in (look, preview):
        assert "if-none-match" in {one["name"] for one in operation["parameters"]}
        assert all("ETag" in operation["responses"][status]["headers"] for status in ("200", "304"))
    assert "Retry-After" in look["responses"]["200"]["headers"]
    for status in ("200", "202"):
        headers = paths["/v1/jobs"]["post"]["responses"][status]["headers"]
        assert {"Location", "ETag", "Retry-After", "Preference-Applied"} <= headers.keys()
    assert all("description" in one for one in paths["/v1/deliveries"]["get"]["parameters"] if one["name"] != "limit")
    (place,) = [one for one in paths["/v1/jobs/{job_id}/events"]["get"]["parameters"] if one["in"] == "header"]
    assert re.fullmatch(place["schema"]["anyOf"][0]["pattern"], "3.0")


def test_the_description_tells_what_is_sent_to_webhooks(api: Api) -> None:
    document = api.client.get("/openapi.json").json()

    assert document["openapi"].startswith("3.1")
    kinds = {"job.started", "job.succeeded", "job.failed", "job.canceled", "batch.completed", "batch.canceled"}
    assert set(document["webhooks"]) == kinds | {"webhook.test"}
    for kind, item in document["webhooks"].items():
        operation = item["post"]
        names = {one["name"] for one in operation["parameters"]}
        assert names == {"webhook-id", "webhook-timestamp", "webhook-signature"}
        schema = operation["requestBody"]["content"]["application/json"]["schema"]
        assert schema["required"] == ["type", "timestamp", "data"]
        assert schema["properties"]["type"]["const"] == kind
    data = document["components"]["schemas"]["JobEventData"]
    job = set(document["components"]["schemas"]["Job"]["properties"])
    assert set(data["properties"]) == job - {"params", "warnings"} | {"truncated"}


@pytest.mark.parametrize(
    "path", ["/v1/jobs", "/v1/jobs/{job_id}", "/v1/jobs/{job_id}/images/{index}", "/v1/queue", "/v1/usage"]
)
def test_the_description_names_every_road(api: Api, path: str) -> None:
    assert path in api.client.get("/openapi.json").json()["paths"]


def test_the_settings_decide_about_what_is_not_handed_in(tmp_path_factory: pytest.TempPathFactory) -> None:
    """The app opens and closes its own parts when it is given none."""
    from common.db.engine import Database
    from common.db.migrate import migrate

    settings = Settings(_env_file=None, data_dir=tmp_path_factory.mktemp("data"), doorbells=False)
    database = Database(settings.database)
    migrate(database)
    database.close()
    with TestClient(create_app(settings), base_url="http://127.0.0.1") as client:
        assert client.post("/v1/jobs", json={"prompt": "x"}).status_code == 202
