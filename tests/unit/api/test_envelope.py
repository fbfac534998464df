"""What surrounds every request."""

from collections.abc import Callable, Iterator

import pytest
from sqlalchemy.exc import OperationalError

from tests.unit.api.conftest import Api, data_url
from tests.unit.api.fakes import picture


@pytest.mark.parametrize("given", ["abc-1.2_3", "x" * 128])
def test_a_good_request_id_is_kept(api: Api, given: str) -> None:
    assert api.client.get("/healthz", headers={"X-Request-Id": given}).headers["x-request-id"] == given


@pytest.mark.parametrize("given", ["", "x" * 129, "a b", 'a"b'])
def test_an_odd_request_id_is_replaced(api: Api, given: str) -> None:
    response = api.client.get("/nowhere", headers={"X-Request-Id": given})

    assert response.headers["x-request-id"].startswith("req_")
    assert response.json()["request_id"] == response.headers["x-request-id"]


@pytest.mark.parametrize("path", ["/healthz", "/v1/jobs", "/nowhere", "/docs"])
def test_every_answer_is_shielded(api: Api, path: str) -> None:
    headers = api.client.get(path).headers

    assert headers["x-content-type-options"] == "nosniff"
    assert headers["referrer-policy"] == "no-referrer"
    assert headers["cache-control"] == "no-store"


def test_a_declared_body_above_the_limit_is_413(make_api: Callable[..., Api]) -> None:
    api = make_api(max_body_bytes=1000)

    response = api.client.post("/v1/jobs", json={"prompt": "x" * 2000})

    assert (response.status_code, response.json()["code"]) == (413, "payload_too_large")


@pytest.mark.parametrize("content_type", ["application/json", "multipart/form-data; boundary=b"])
def test_an_undeclared_body_is_counted_as_it_comes(make_api: Callable[..., Api], content_type: str) -> None:
    api = make_api(max_body_bytes=1000)
    start = b'--b\r\nContent-Disposition: form-data; name="image"; filename="a"\r\n\r\n'

    def long() -> Iterator[bytes]:
        yield start
        for _ in range(5):
            yield b" " * 400

    response = api.client.post("/v1/jobs", content=long(), headers={"Content-Type": content_type})

    assert (response.status_code, response.json()["code"]) == (413, "payload_too_large")
    assert api.has_stored_nothing()


def test_a_body_at_the_limit_is_accepted(make_api: Callable[..., Api]) -> None:
    body = b'{"prompt": "x"}'
    api = make_api(max_body_bytes=len(body))

    response = api.client.post("/v1/jobs", content=body, headers={"Content-Type": "application/json"})

    assert response.status_code == 202


def test_the_unforeseen_is_a_problem_without_a_trace(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    def explode(data: bytes) -> None:
        raise KeyError("secret detail")

    monkeypatch.setattr(api.decoder, "decode", explode)

    response = api.client.post("/v1/jobs", json={"prompt": "x", "image": data_url()})

    assert (response.status_code, response.json()["code"]) == (500, "internal")
    assert "secret" not in response.text
    assert response.json()["request_id"] == response.headers["x-request-id"]


def test_a_problem_has_every_member_of_the_contract(api: Api) -> None:
    problem = api.client.get("/v1/jobs/x").json()

    expected = {"type", "title", "status", "detail", "instance", "code", "request_id", "retryable", "errors"}
    assert problem.keys() == expected
    assert (problem["status"], problem["instance"], problem["retryable"]) == (404, "/v1/jobs/x", False)


def test_an_unanswered_method_is_405(api: Api) -> None:
    response = api.client.put("/v1/jobs")

    assert (response.status_code, response.json()["code"]) == (405, "method_not_allowed")
    assert response.headers["allow"]


def test_a_database_that_is_away_is_503_with_a_time_to_come_back(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    def away(*_: object) -> None:
        raise OperationalError("SELECT 1", {}, OSError("connection refused"))

    monkeypatch.setattr(api.database.engine, "connect", away)
    monkeypatch.setattr(api.database.engine, "begin", away)

    for response in (api.client.post("/v1/jobs", json={"prompt": "x"}), api.client.get("/v1/jobs")):
        assert (response.status_code, response.json()["retryable"]) == (503, True)
        assert response.headers["retry-after"] == "2"
    assert api.client.get("/readyz").status_code == 503
    assert api.client.get("/healthz").status_code == 200


def test_a_store_that_is_away_refuses_the_job_and_keeps_no_row(api: Api) -> None:
    api.store.is_away = True

    response = api.client.post("/v1/jobs", data={"prompt": "x"}, files={"image": ("a.png", picture())})

    assert (response.status_code, response.json()["code"]) == (503, "unavailable")
    assert api.count_jobs() == 0
