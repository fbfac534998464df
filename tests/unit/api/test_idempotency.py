"""One request with one key makes one job, however often it is sent."""

from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.unit.api.conftest import Api, data_url
from tests.unit.api.fakes import picture

KEY = {"Idempotency-Key": "order-17"}
REQUEST = {"prompt": "x", "image": data_url()}


def test_a_repetition_answers_the_first_job_without_decoding_again(api: Api) -> None:
    first = api.client.post("/v1/jobs", json=REQUEST, headers=KEY)
    again = api.client.post("/v1/jobs", json=REQUEST, headers=KEY)

    assert again.status_code == 202
    assert again.json() == first.json()
    assert "idempotent-replayed" not in first.headers
    assert again.headers["idempotent-replayed"] == "true"
    assert (api.count_jobs(), api.decoder.decoded, len(api.bell.rings)) == (1, 1, 1)


def test_a_repetition_answers_the_job_as_it_now_is(api: Api) -> None:
    api.client.post("/v1/jobs", json=REQUEST, headers=KEY)
    api.develop()

    again = api.client.post("/v1/jobs", json=REQUEST, headers=KEY)

    assert (again.status_code, again.json()["status"]) == (200, "succeeded")


def test_the_order_of_members_does_not_matter(api: Api) -> None:
    headers = KEY | {"Content-Type": "application/json"}
    api.client.post("/v1/jobs", content=b'{"prompt": "x", "seed": 1}', headers=headers)

    again = api.client.post("/v1/jobs", content=b'{ "seed":1, "prompt":"x" }', headers=headers)

    assert again.headers["idempotent-replayed"] == "true"


def test_another_request_with_the_key_is_refused(api: Api) -> None:
    api.client.post("/v1/jobs", json=REQUEST, headers=KEY)

    other = api.client.post("/v1/jobs", json=REQUEST | {"seed": 1}, headers=KEY)

    assert (other.status_code, other.json()["code"]) == (422, "idempotency_mismatch")
    assert api.count_jobs() == 1


def test_another_file_with_the_key_is_refused(api: Api) -> None:
    api.client.post("/v1/jobs", data={"prompt": "x"}, files={"image": ("a.png", picture(100, 100))}, headers=KEY)

    other = api.client.post("/v1/jobs", data={"prompt": "x"}, files={"image": ("a.png", picture())}, headers=KEY)

    assert other.json()["code"] == "idempotency_mismatch"


def test_a_refused_request_does_not_use_the_key_up(api: Api) -> None:
    assert api.client.post("/v1/jobs", json=REQUEST | {"strength": 2}, headers=KEY).status_code == 422

    assert api.client.post("/v1/jobs", json=REQUEST, headers=KEY).status_code == 202


def test_twenty_at_once_make_one_job(api: Api) -> None:
    def send(_: int) -> tuple[int, str]:
        response = api.client.post("/v1/jobs", json=REQUEST, headers=KEY)
        return response.status_code, response.json()["id"]

    with ThreadPoolExecutor(20) as pool:
        answers = set(pool.map(send, range(20)))

    assert len(answers) == 1
    assert next(iter(answers))[0] == 202
    assert api.count_jobs() == 1
    assert len(api.bell.rings) == 1


@pytest.mark.parametrize("key", ["", "x" * 256, "with space", "t\xe4st"])
def test_a_malformed_key_is_refused(api: Api, key: str) -> None:
    response = api.client.post("/v1/jobs", json=REQUEST, headers={b"Idempotency-Key": key.encode("latin-1")})

    assert response.status_code == 422
    assert response.json()["errors"][0]["pointer"] == "/header/Idempotency-Key"


def test_two_keys_are_refused(api: Api) -> None:
    headers = [("Idempotency-Key", "a"), ("Idempotency-Key", "b")]

    assert api.client.post("/v1/jobs", json=REQUEST, headers=headers).status_code == 422
