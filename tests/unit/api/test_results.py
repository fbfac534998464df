"""Fetching results."""

import hashlib
from collections.abc import Callable

import pytest
from sqlalchemy import update

from common.db.tables import jobs
from common.db.types import after_now
from tests.unit.api.conftest import Api


@pytest.fixture
def url(api: Api) -> str:
    api.submit()
    return f"/v1/jobs/{api.develop(b'pixels')}/images/0"


def test_the_bytes_come_with_their_type_and_shielded(api: Api, url: str) -> None:
    response = api.client.get(url)

    assert (response.status_code, response.content) == (200, b"pixels")
    assert response.headers["content-type"] == "image/png"
    assert response.headers["x-content-type-options"] == "nosniff"
    assert response.headers["cache-control"].startswith("private")
    assert response.headers["etag"] == f'"{hashlib.sha256(b"pixels").hexdigest()}"'
    assert response.headers["content-disposition"].startswith("inline")


def test_a_download_is_an_attachment_with_a_name(api: Api, url: str) -> None:
    disposition = api.client.get(f"{url}?download=1").headers["content-disposition"]

    assert disposition.startswith('attachment; filename="job_')
    assert disposition.endswith('-0.png"')


def test_known_bytes_are_304(api: Api, url: str) -> None:
    tag = api.client.get(url).headers["etag"]

    assert api.client.get(url, headers={"If-None-Match": tag}).status_code == 304


def test_a_store_with_urls_is_redirected_to(api: Api, url: str) -> None:
    api.store.presigns = True

    response = api.client.get(f"{url}?download=true")

    assert response.status_code == 307
    assert response.headers["location"].startswith("https://store.example/results/")
    assert "for=900" in response.headers["location"]
    assert response.headers["location"].endswith("-0.png")
    assert response.headers["cache-control"] == "no-store"


@pytest.mark.parametrize("index", ["1", "15", "16", "99999999999999999999999", "-1", "x", "grid"])
def test_an_image_that_is_not_there_is_404(api: Api, url: str, index: str) -> None:
    response = api.client.get(url[:-1] + index)

    assert (response.status_code, response.json()["code"]) == (404, "not_found")


def test_an_unfinished_job_has_no_images_yet(api: Api) -> None:
    job = api.submit()

    assert api.client.get(f"/v1/jobs/{job['id']}/images/0").status_code == 404


def test_a_result_past_its_life_is_gone_though_its_object_still_lies_there(api: Api, url: str) -> None:
    with api.database.write() as connection:
        connection.execute(update(jobs).values(expires_at=after_now(-1)))

    assert api.client.get(url).status_code == 410


def test_a_result_whose_object_was_removed_is_gone(api: Api, url: str) -> None:
    api.store.objects.clear()

    assert api.client.get(url).status_code == 410


def test_a_store_that_is_away_is_503(api: Api, url: str) -> None:
    api.store.is_away = True

    response = api.client.get(url)

    assert (response.status_code, response.json()["code"]) == (503, "unavailable")
    assert response.headers["retry-after"]


def test_a_foreign_result_is_404(make_api: Callable[..., Api], api: Api, url: str) -> None:
    from common.db.tenants import create_key, create_tenant

    with api.database.write() as connection:
        create_tenant(connection, "other", "Other")
        key = create_key(connection, "other", name="t", scopes=["jobs:read"], expires_seconds=None)
    stranger = make_api(auth="keys")

    response = stranger.client.get(url, headers={"Authorization": f"Bearer {key}"})

    assert response.status_code == 404
