"""Handing in batches: `POST /v1/batches`."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from sqlalchemy import func, select

from api.schemas.batches import Batch
from common import failpoints
from common.db.engine import Database
from common.db.tables import batches, objects
from common.requests import lines
from tests.unit.api.conftest import Api, Json, data_url
from tests.unit.api.tending import hand_in, look, manifest_of, reject
from tests.unit.api.test_auth import key_for

KEY = {"Idempotency-Key": "order-17"}
REQUEST = {"items": [{"prompt": "x"}, {"prompt": "y", "custom_id": "second"}]}


def count_batches(database: Database) -> int:
    with database.read() as connection:
        return connection.execute(select(func.count()).select_from(batches)).scalar_one()


def refusal(api: Api, **members: Any) -> tuple[int, str, str]:
    """Status, pointer and code of the first problem of a refused batch, of which nothing is kept."""
    answer = api.client.post("/v1/batches", json=members)
    assert count_batches(api.database) == 0
    assert not any(key.startswith("manifests/") for key in api.store.objects)
    body = answer.json()
    first = (body.get("errors") or [{"pointer": "", "code": body["code"]}])[0]
    return answer.status_code, first["pointer"], first["code"]


def test_a_batch_is_accepted_with_its_manifest_stored_and_a_courier_rung(api: Api) -> None:
    answer = api.client.post("/v1/batches", json=REQUEST | {"name": "pictures", "metadata": {"k": "v"}})

    batch = answer.json()
    Batch.model_validate(batch)
    assert answer.status_code == 202
    assert answer.headers["location"] == batch["urls"]["self"]
    assert answer.headers["retry-after"] == "1"
    assert (batch["status"], batch["name"], batch["metadata"]) == ("validating", "pictures", {"k": "v"})
    assert (batch["priority"], batch["on_invalid"], batch["version"]) == ("low", "reject", 1)
    assert batch["counts"] == {"total": 2, "queued": 2, "running": 0, "succeeded": 0, "failed": 0, "canceled": 0}
    assert manifest_of(api, batch) == REQUEST["items"]
    assert (api.bell.courier_rings, api.bell.rings) == (1, [])
    assert look(api, batch) == batch


def test_defaults_that_are_too_much_for_so_many_lines_are_refused(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lines, "MOST_DEFAULTS_BYTES", 30)
    items, defaults = [{}, {}], {"prompt": "xxxx"}
    assert refusal(api, items=items, defaults=defaults) == (422, "/defaults", "validation_error")
    hand_in(api, items=items[:1], defaults=defaults)


def test_the_manifest_is_kept_as_long_as_a_courier_may_need_it(api: Api) -> None:
    hand_in(api)

    with api.database.read() as connection:
        (row,) = connection.execute(select(objects)).all()
    assert (row.kind, row.state, row.bytes) == ("manifest", "live", len(b'{"prompt":"x"}\n'))
    assert (row.expires_at - row.created_at).total_seconds() > 6 * 24 * 3600


def test_a_matrix_becomes_lines(api: Api) -> None:
    batch = hand_in(api, matrix={"zip": {"custom_id": ["a", "b"], "prompt": ["x", "y"]}, "product": {"seed": [1, 2]}})

    assert batch["counts"]["total"] == 4
    assert manifest_of(api, batch)[1] == {"custom_id": "a-1", "prompt": "x", "seed": 2}


def test_defaults_are_kept_for_the_courier(api: Api) -> None:
    hand_in(api, defaults={"prompt": "x", "strength": 0.5, "seed": None}, on_invalid="skip")

    with api.database.read() as connection:
        kept = connection.execute(select(batches.c.request)).scalar_one()
    assert kept == {"defaults": {"prompt": "x", "strength": 0.5, "seed": None}, "on_invalid": "skip", "metadata": {}}


def test_an_image_of_all_lines_is_decoded_once(api: Api) -> None:
    hand_in(api, defaults={"prompt": "x", "image": data_url()})

    with api.database.read() as connection:
        kept = connection.execute(select(batches.c.request)).scalar_one()
    upload = kept["defaults"]["image"]["upload"]
    assert api.client.get(f"/v1/uploads/{upload}").json()["status"] == "ready"
    assert api.decoder.decoded == 1


def test_what_is_no_image_of_all_lines_is_refused_at_once(api: Api) -> None:
    defaults = {"image": {"data": "data:image/png;base64,AAAA"}}

    assert refusal(api, items=[{}], defaults=defaults) == (422, "/defaults/image", "image_unreadable")


@pytest.mark.parametrize(
    ("members", "pointer", "code"),
    [
        ({}, "", "validation_error"),
        ({"items": [{}], "matrix": {"zip": {"prompt": ["x"]}}}, "", "validation_error"),
        ({"items": []}, "/items", "validation_error"),
        ({"items": [{}] * 1001}, "/items", "validation_error"),
        ({"items": [{}, 1]}, "/items/1", "validation_error"),
        ({"items": [{}], "itmes": []}, "/itmes", "unknown_field"),
        ({"items": [{}], "name": ""}, "/name", "validation_error"),
        ({"items": [{}], "name": "a\0b"}, "/name", "validation_error"),
        ({"items": [{}], "on_invalid": "ignore"}, "/on_invalid", "validation_error"),
        ({"items": [{}], "priority": "urgent"}, "/priority", "validation_error"),
        ({"items": [{}], "metadata": {"k": 1}}, "/metadata/k", "validation_error"),
        ({"items": [{}], "metadata": {str(n): "" for n in range(17)}}, "/metadata", "validation_error"),
        ({"items": [{}], "defaults": {"strenght": 1}}, "/defaults/strenght", "unknown_field"),
        ({"items": [{}], "defaults": {"strength": 2}}, "/defaults/strength", "validation_error"),
        ({"items": [{}], "defaults": {"priority": "low"}}, "/defaults/priority", "validation_error"),
        ({"items": [{}], "defaults": {"webhook": {}}}, "/defaults/webhook", "validation_error"),
        ({"items": [{}], "defaults": {"custom_id": "x"}}, "/defaults/custom_id", "validation_error"),
        ({"matrix": {}}, "/matrix", "validation_error"),
        ({"matrix": {"zip": {"prompt": []}}}, "/matrix/zip/prompt", "validation_error"),
        ({"matrix": {"zip": {"prompt": "x"}}}, "/matrix/zip/prompt", "validation_error"),
        ({"matrix": {"cross": {}}}, "/matrix/cross", "unknown_field"),
        ({"matrix": {"product": {"seed": [1] * 400, "strength": [0.5] * 400}}}, "/matrix", "validation_error"),
    ],
)
def test_a_wrong_envelope_is_refused_with_the_field_and_nothing_is_kept(
    api: Api, members: Json, pointer: str, code: str
) -> None:
    assert refusal(api, **members) == (422, pointer, code)


def test_numbers_that_are_none_are_refused_where_they_stand(api: Api) -> None:
    headers = {"Content-Type": "application/json"}

    infinite = api.client.post("/v1/batches", content=b'{"items": [{}, {"strength": 1e400}]}', headers=headers)
    no_json = api.client.post("/v1/batches", content=b'{"items": [{"strength": NaN}]}', headers=headers)

    assert (infinite.status_code, infinite.json()["errors"][0]["pointer"]) == (422, "/items")
    assert (no_json.status_code, no_json.json()["code"]) == (400, "invalid_json")


def test_members_nested_without_end_are_refused(api: Api) -> None:
    headers = {"Content-Type": "application/json"} | KEY
    for depth in (200, 400, 600, 800, 900, 950, 975, 990, 10_000):
        deep = b"[" * depth + b"]" * depth
        for body in (b'{"items": [{"x": ' + deep + b"}]}", b'{"items": [{}], "defaults": {"x": ' + deep + b"}}"):
            assert api.client.post("/v1/batches", content=body, headers=headers).status_code < 500, depth


def test_a_thousand_items_are_not_too_many(api: Api) -> None:
    batch = hand_in(api, items=[{"prompt": "a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p, q, r, s, t, u, v"}] * 1000)

    assert batch["counts"]["total"] == 1000


def test_a_priority_above_what_the_key_may_use_is_refused(make_api: Callable[..., Api]) -> None:
    api = make_api(auth="keys")
    headers = key_for(api, "jobs:read", "jobs:write")

    answer = api.client.post("/v1/batches", json={"items": [{}], "priority": "high"}, headers=headers)

    assert (answer.status_code, answer.json()["code"]) == (403, "forbidden")
    assert hand_in(api, headers, priority="normal")["priority"] == "normal"


def test_a_store_that_is_away_keeps_no_batch(api: Api) -> None:
    api.store.is_away = True

    assert api.client.post("/v1/batches", json=REQUEST).status_code == 503
    assert count_batches(api.database) == 0


# One key, one batch


def test_a_repetition_answers_the_same_batch_as_it_now_is(api: Api) -> None:
    first = api.client.post("/v1/batches", json=REQUEST, headers=KEY)
    again = api.client.post("/v1/batches", json=REQUEST, headers=KEY)
    reject(api, first.json())
    at_last = api.client.post("/v1/batches", json=REQUEST, headers=KEY)

    assert (first.status_code, again.status_code, at_last.status_code) == (202, 202, 200)
    assert again.json() == first.json()
    assert "idempotent-replayed" not in first.headers
    assert again.headers["idempotent-replayed"] == at_last.headers["idempotent-replayed"] == "true"
    assert at_last.json()["status"] == "rejected"
    assert at_last.headers["location"] == first.headers["location"]
    assert (count_batches(api.database), len(api.store.objects), api.bell.courier_rings) == (1, 1, 1)


@pytest.mark.parametrize("other", [{"items": [{"prompt": "x"}]}, REQUEST | {"name": "n"}])
def test_another_batch_with_the_key_is_refused(api: Api, other: Json) -> None:
    hand_in(api, KEY, **REQUEST)

    answer = api.client.post("/v1/batches", json=other, headers=KEY)

    assert (answer.status_code, answer.json()["code"]) == (422, "idempotency_mismatch")


def test_a_job_and_a_batch_cannot_have_the_same_key(api: Api) -> None:
    hand_in(api, KEY)

    answer = api.client.post("/v1/jobs", json={"prompt": "x"}, headers=KEY)

    assert (answer.status_code, answer.json()["code"]) == (422, "idempotency_mismatch")


def test_a_refused_batch_does_not_use_the_key_up(api: Api) -> None:
    assert api.client.post("/v1/batches", json={"items": []}, headers=KEY).status_code == 422

    hand_in(api, KEY)


def test_fifty_at_once_make_one_batch(api: Api) -> None:
    def send(_: int) -> tuple[int, str]:
        response = api.client.post("/v1/batches", json=REQUEST, headers=KEY)
        return response.status_code, response.json()["id"]

    with ThreadPoolExecutor(50) as pool:
        answers = set(pool.map(send, range(50)))

    assert len(answers) == 1
    assert (count_batches(api.database), api.bell.courier_rings) == (1, 1)


@pytest.mark.parametrize(
    ("point", "batches_then"), [("batch_stored", 0), ("batch_inserted", 0), ("batch_committed", 1)]
)
def test_a_submit_that_dies_anywhere_is_made_good_by_repeating_it(api: Api, point: str, batches_then: int) -> None:
    failpoints.arm(f"api.{point}:unavailable")
    try:
        assert api.client.post("/v1/batches", json=REQUEST, headers=KEY).status_code == 503
    finally:
        failpoints.arm("")
    assert count_batches(api.database) == batches_then

    batch = hand_in(api, KEY, **REQUEST)

    assert manifest_of(api, batch) == REQUEST["items"]
    assert count_batches(api.database) == 1
