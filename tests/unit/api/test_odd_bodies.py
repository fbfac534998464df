"""Bodies that no honest client sends: always a clean 4xx, never a trace, never a job."""

import pytest

from tests.unit.api.conftest import Api

DEEP = 10_000


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"null",
        b"[]",
        b'"text"',
        b'{"prompt": NaN}',
        b'{"prompt": "x", "strength": -Infinity}',
        b'{"prompt": "x", "prompt": "y"}',
        b'{"output": {"format": "png", "format": "jpeg"}}',
        b'{"prompt": "\xff"}',
        b"\xef\xbb\xbf{}",
        b'{"a":' * DEEP + b"1" + b"}" * DEEP,
        b"[" * DEEP + b"]" * DEEP,
        b"[" * 1_000_000,
        b'{"seed": ' + b"1" * 5000 + b"}",
        b"{" + b",".join(b'"k%d":1' % n for n in range(300)) + b"}",
        '{"prompt": "x"}'.encode("utf-16"),
    ],
)
def test_what_is_not_one_plain_json_object_is_400(api: Api, body: bytes) -> None:
    response = api.client.post("/v1/jobs", content=body, headers={"Content-Type": "application/json"})

    assert (response.status_code, response.json()["code"]) == (400, "invalid_json")
    assert api.has_stored_nothing()


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        (b'{"prompt": "x", "strength": 1e400}', "/strength"),
        (b'{"prompt": "\\ud800"}', "/prompt"),
        (b'{"prompt": "x", "metadata": {"\\ud800": "v"}}', "/metadata/"),
        (b'{"prompt": "x", "tags": ["a\\u0000"]}', "/tags/0"),
    ],
)
def test_values_that_nothing_can_hold_are_422(api: Api, body: bytes, pointer: str) -> None:
    response = api.client.post("/v1/jobs", content=body, headers={"Content-Type": "application/json"})

    assert response.status_code == 422
    assert response.json()["errors"][0]["pointer"].startswith(pointer)
    assert api.has_stored_nothing()


@pytest.mark.parametrize("name", [b"\\ud800", b"\\u0000", b"x" * 100_000])
def test_odd_names_are_refused_as_unknown_and_not_echoed_whole(api: Api, name: bytes) -> None:
    body = b'{"prompt": "x", "' + name + b'": 1}'

    response = api.client.post("/v1/jobs", content=body, headers={"Content-Type": "application/json"})

    assert response.status_code == 422
    assert len(response.content) < 3000


@pytest.mark.parametrize("content_type", [None, "text/plain", "application/x-www-form-urlencoded", "image/png"])
def test_another_content_type_is_415(api: Api, content_type: str | None) -> None:
    headers = {"Content-Type": content_type} if content_type else {}

    response = api.client.post("/v1/jobs", content=b'{"prompt": "x"}', headers=headers)

    assert (response.status_code, response.json()["code"]) == (415, "unsupported_media_type")


@pytest.mark.parametrize("content_type", ["text/plain", "multipart/form-data; boundary=b", "multipart/mixed"])
@pytest.mark.parametrize("path", ["/v1/webhooks", "/v1/deliveries/redeliver", "/v1/jobs"])
def test_a_415_names_what_the_route_takes(api: Api, path: str, content_type: str) -> None:
    if path == "/v1/jobs":
        content_type = "text/plain"
    answer = api.client.post(path, content=b"{}", headers={"Content-Type": content_type})

    takes = "application/json or multipart/form-data" if path == "/v1/jobs" else "application/json"
    detail = f"the content type must be {takes}, not {content_type.partition(';')[0]}"
    assert (answer.status_code, answer.json()["detail"]) == (415, detail)


def test_json_may_name_its_charset(api: Api) -> None:
    headers = {"Content-Type": "Application/JSON; charset=utf-8"}

    assert api.client.post("/v1/jobs", content=b'{"prompt": "x"}', headers=headers).status_code == 202


@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        ("multipart/form-data", b"x"),
        ("multipart/form-data; boundary=b", b"x"),
        ("multipart/form-data; boundary=b", b"--b\r\nContent-Disposition: form-data\r\n\r\nx\r\n--b--\r\n"),
        ("multipart/form-data; boundary=b", b""),
    ],
)
def test_a_broken_form_is_a_clean_refusal(api: Api, content_type: str, body: bytes) -> None:
    response = api.client.post("/v1/jobs", content=body, headers={"Content-Type": content_type})

    assert response.status_code in {400, 422}
    assert response.json()["code"] in {"invalid_multipart", "validation_error"}
    assert api.has_stored_nothing()


def test_a_form_with_too_many_fields_is_refused(api: Api) -> None:
    response = api.client.post("/v1/jobs", files=[(f"f{n}", (None, "x")) for n in range(200)])

    assert (response.status_code, response.json()["code"]) == (400, "invalid_multipart")
