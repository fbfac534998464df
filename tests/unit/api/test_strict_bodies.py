"""What a body may not be: too large an image, text of another encoding, encoded, or there at all."""

from collections.abc import Callable

import pytest

from tests.unit.api.conftest import Api
from tests.unit.api.fakes import picture

JSON = ("Content-Type", "application/json")


def test_an_image_file_above_its_limit_is_413(make_api: Callable[..., Api]) -> None:
    api = make_api(max_image_bytes=100)

    answer = api.client.post("/v1/jobs", data={"prompt": "x"}, files={"image": ("a.png", picture() + b" " * 100)})

    assert (answer.status_code, answer.json()["code"]) == (413, "payload_too_large")
    assert api.has_stored_nothing()


def test_form_text_that_is_not_utf_8_is_refused_by_its_field(api: Api) -> None:
    answer = api.client.post("/v1/jobs", files={"prompt": (None, b"caf\xe9")})

    assert (answer.status_code, answer.json()["errors"][0]["pointer"]) == (422, "/prompt")


@pytest.mark.parametrize("headers", [[JSON, JSON], [JSON, ("Content-Encoding", "gzip")]])
def test_a_second_content_type_or_any_encoding_is_415(api: Api, headers: list[tuple[str, str]]) -> None:
    answer = api.client.post("/v1/jobs", content=b'{"prompt": "x"}', headers=headers)

    assert (answer.status_code, answer.json()["code"]) == (415, "unsupported_media_type")


def test_a_cancel_with_a_body_is_refused(api: Api) -> None:
    url = f"/v1/jobs/{api.submit()['id']}/cancel"

    assert api.client.post(url, json={"reason": "x"}).status_code == 422
    assert api.client.post(url).json()["status"] == "canceled"


def test_a_dry_run_with_the_key_of_another_request_is_refused(api: Api) -> None:
    key = {"Idempotency-Key": "k"}
    api.client.post("/v1/jobs", json={"prompt": "x"}, headers=key)

    answer = api.client.post("/v1/jobs?dry_run=true", json={"prompt": "y"}, headers=key)

    assert (answer.status_code, answer.json()["code"]) == (422, "idempotency_mismatch")
