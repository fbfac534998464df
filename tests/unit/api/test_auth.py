"""Who may do what."""

from collections.abc import Callable
from pathlib import Path

import pytest

from api.main import create_app, serve
from common.db.tenants import create_key, create_tenant
from common.settings import Settings
from tests.unit.api.conftest import Api

JOB = {"prompt": "x"}


@pytest.fixture
def guarded(make_api: Callable[..., Api]) -> Api:
    return make_api(auth="keys")


def key_for(api: Api, *scopes: str, tenant: str = "default", seconds: float | None = None) -> dict[str, str]:
    with api.database.write() as connection:
        key = create_key(connection, tenant, name="t", scopes=list(scopes), expires_seconds=seconds)
    return {"Authorization": f"Bearer {key}"}


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Authorization": "Bearer"},
        {"Authorization": "Bearer dk_nope_nope"},
        {"Authorization": "Bearer nope"},
        {"Authorization": "Basic dXNlcjpwYXNz"},
        {"Authorization": b"Bearer dk_\xff_\xff"},
        {"Authorization": "Bearer dk_" + "x" * 5000},
    ],
)
def test_without_a_valid_key_nobody_comes_in(guarded: Api, headers: dict[str, str]) -> None:
    for answer in (
        guarded.client.post("/v1/jobs", json=JOB, headers=headers),
        guarded.client.get("/v1/jobs", headers=headers),
        guarded.client.get("/v1/models", headers=headers),
        guarded.client.get("/v1/queue", headers=headers),
        guarded.client.get("/v1/jobs/x/images/0", headers=headers),
        guarded.client.post("/v1/jobs/x/cancel", headers=headers),
        guarded.client.post("/v1/jobs/x/retry", headers=headers),
        guarded.client.patch("/v1/jobs/x", json={}, headers=headers),
        guarded.client.delete("/v1/jobs/x", headers=headers),
    ):
        assert (answer.status_code, answer.json()["code"]) == (401, "unauthorized")
        assert answer.headers["www-authenticate"] == "Bearer"


def test_an_expired_key_is_no_key(guarded: Api) -> None:
    assert guarded.client.get("/v1/jobs", headers=key_for(guarded, "jobs:read", seconds=-1)).status_code == 401


def test_reading_and_writing_are_two_scopes(guarded: Api) -> None:
    reader, writer = key_for(guarded, "jobs:read"), key_for(guarded, "jobs:write")

    assert guarded.client.post("/v1/jobs", json=JOB, headers=reader).status_code == 403
    assert guarded.client.post("/v1/jobs/x/retry", headers=reader).status_code == 403
    assert guarded.client.patch("/v1/jobs/x", json={"tags": []}, headers=reader).status_code == 403
    assert guarded.client.delete("/v1/jobs/x", headers=reader).status_code == 403
    assert guarded.client.post("/v1/jobs", json=JOB, headers=writer).status_code == 202
    assert guarded.client.get("/v1/jobs", headers=reader).status_code == 200
    refused = guarded.client.get("/v1/jobs", headers=writer)
    assert (refused.status_code, refused.json()["code"]) == (403, "forbidden")
    assert "insufficient_scope" in refused.headers["www-authenticate"]


def test_tenants_do_not_see_each_other(guarded: Api) -> None:
    with guarded.database.write() as connection:
        create_tenant(connection, "other", "Other")
    mine = key_for(guarded, "jobs:read", "jobs:write")
    theirs = key_for(guarded, "jobs:read", "jobs:write", tenant="other")
    url = guarded.client.post("/v1/jobs", json=JOB, headers=mine).json()["urls"]["self"]

    assert guarded.client.get(url, headers=theirs).status_code == 404
    assert guarded.client.post(f"{url}/cancel", headers=theirs).status_code == 404
    assert guarded.client.get("/v1/jobs", headers=theirs).json()["data"] == []
    assert guarded.client.get(url, headers=mine).json()["status"] == "queued"


def test_keys_of_idempotency_are_per_tenant(guarded: Api) -> None:
    with guarded.database.write() as connection:
        create_tenant(connection, "other", "Other")
    answers = [
        guarded.client.post(
            "/v1/jobs", json=JOB, headers=key_for(guarded, "jobs:write", tenant=tenant) | {"Idempotency-Key": "k"}
        )
        for tenant in ("default", "other")
    ]

    assert answers[0].json()["id"] != answers[1].json()["id"]


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/metrics", "/openapi.json", "/docs"])
def test_probes_and_documentation_need_no_key(guarded: Api, path: str) -> None:
    assert guarded.client.get(path).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "evil.example"},
        {"Host": "10.0.0.1:8000"},
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
    ],
)
def test_without_keys_the_browser_is_no_tool_of_strangers(api: Api, headers: dict[str, str]) -> None:
    response = api.client.post("/v1/jobs", json=JOB, headers=headers)

    assert (response.status_code, response.json()["code"]) == (403, "forbidden")
    assert api.has_stored_nothing()


@pytest.mark.parametrize("headers", [{"Host": "localhost:9000"}, {"Host": "[::1]"}, {"Origin": "http://localhost"}])
def test_without_keys_this_machine_is_welcome(api: Api, headers: dict[str, str]) -> None:
    assert api.client.post("/v1/jobs", json=JOB, headers=headers).status_code == 202


def test_an_open_door_to_the_network_is_refused(tmp_path: Path) -> None:
    settings = Settings(_env_file=None, data_dir=tmp_path, host="0.0.0.0")

    with pytest.raises(ValueError, match="darkroom keys create"):
        create_app(settings)
    with pytest.raises(SystemExit, match="DARKROOM_AUTH=keys"):
        serve(settings)
