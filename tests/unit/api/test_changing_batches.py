"""Pausing, resuming, canceling and retrying batches."""

from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import select, update

from common.db import batch_work
from common.db.tables import batches, jobs
from common.db.types import now
from tests.making import make_job
from tests.unit.api.conftest import Api, Json, data_url
from tests.unit.api.endpoints import OTHER_SECRET, SECRET, URL, public_hosts, rows
from tests.unit.api.tending import end, hand_in, look, manifest_of, queue, reject, settle, take
from tests.unit.api.test_auth import key_for


def change(api: Api, batch: Json, way: str, **body: Any) -> Any:
    """The response to `POST …/{way}`."""
    return api.client.post(f"/v1/batches/{batch['id']}/{way}", **body)


def running(api: Api, count: int = 2) -> tuple[Json, list[str]]:
    """A batch whose jobs are queued, and these."""
    names = [f"line-{number}" for number in range(count)]
    batch = hand_in(api, items=[{"prompt": "x", "custom_id": name} for name in names])
    made = queue(api, batch, names)
    api.bell.rings.clear()
    return batch, made


def held(api: Api) -> set[str | None]:
    with api.database.read() as connection:
        return set(connection.execute(select(jobs.c.held)).scalars())


def request_of(api: Api, batch: Json) -> Json:
    with api.database.read() as connection:
        kept: Json = connection.execute(select(batches.c.request).where(batches.c.id == batch["id"])).scalar_one()
    return kept


def over(api: Api, *states: str) -> tuple[Json, list[str]]:
    """A batch that is over, with jobs that ended so, and these."""
    batch, made = running(api, len(states))
    for job, state in zip(made, states, strict=True):
        end(api, [job], state)
    assert settle(api, batch)["status"] == "completed"
    return batch, made


def test_a_paused_batch_holds_its_jobs_at_once(api: Api) -> None:
    batch, _ = running(api)
    rung = api.bell.courier_rings

    answer = change(api, batch, "pause")

    assert (answer.status_code, answer.json()["status"]) == (200, "paused")
    assert held(api) == {"paused"}
    assert api.bell.courier_rings == rung + 1
    assert answer.json()["version"] > batch["version"]
    assert change(api, batch, "pause").json() == answer.json()


def test_a_resumed_batch_releases_its_jobs_and_rings_their_pool(api: Api) -> None:
    batch, _ = running(api)
    change(api, batch, "pause")

    answer = change(api, batch, "resume")

    assert (answer.status_code, answer.json()["status"]) == (200, "running")
    assert (held(api), api.bell.rings) == ({None}, [("default", 2)])
    assert change(api, batch, "resume").status_code == 200


def test_a_canceled_batch_cancels_its_jobs_at_once(api: Api) -> None:
    batch, _ = running(api)

    answer = change(api, batch, "cancel")

    assert answer.status_code == 200
    assert answer.json()["cancel_requested"]
    assert answer.json()["counts"]["canceled"] == 2
    assert answer.headers["retry-after"] == "1"
    assert settle(api, batch)["status"] == "canceled"
    assert change(api, batch, "cancel").json()["status"] == "canceled"


def test_a_batch_that_is_still_checked_is_canceled_at_once(api: Api) -> None:
    batch = hand_in(api)

    seen = change(api, batch, "cancel").json()

    assert (seen["status"], seen["counts"]["canceled"]) == ("canceled", 1)


def test_a_batch_that_is_over_stays_as_it_is(api: Api) -> None:
    batch = hand_in(api)
    reject(api, batch)

    assert change(api, batch, "cancel").json() == look(api, batch)
    for way in ("pause", "resume"):
        answer = change(api, batch, way)
        assert (answer.status_code, answer.json()["code"]) == (409, "not_editable")


@pytest.mark.parametrize("way", ["pause", "resume"])
def test_a_batch_that_is_still_checked_can_be_neither_paused_nor_resumed(api: Api, way: str) -> None:
    answer = change(api, hand_in(api), way)

    assert (answer.status_code, answer.json()["code"]) == (409, "not_editable")


@pytest.mark.parametrize("way", ["pause", "resume", "cancel"])
def test_changes_take_no_body(api: Api, way: str) -> None:
    batch, _ = running(api)

    assert change(api, batch, way, json={}).status_code == 422
    assert change(api, batch, f"{way}?force=1").status_code == 422


# Trying again


def test_what_failed_is_tried_again_in_order_with_its_own_ids(api: Api) -> None:
    batch, made = over(api, "failed", "succeeded", "canceled", "failed")

    answer = change(api, batch, "retry")

    again = answer.json()
    assert answer.status_code == 202
    assert answer.headers["location"] == again["urls"]["self"]
    assert (again["retry_of"], again["status"], again["counts"]["total"]) == (batch["id"], "validating", 2)
    assert manifest_of(api, again) == [
        {"custom_id": "line-0", "retry_of": made[0]},
        {"custom_id": "line-3", "retry_of": made[3]},
    ]


def test_what_was_canceled_is_tried_again_if_wished(api: Api) -> None:
    batch, made = over(api, "succeeded", "canceled", "failed")

    again = change(api, batch, "retry", json={"include_canceled": True}).json()

    assert [line["retry_of"] for line in manifest_of(api, again)] == made[1:]


def test_a_retry_carries_over_what_was_said_of_the_batch(api: Api) -> None:
    said = {"name": "n", "priority": "normal", "metadata": {"k": "v"}}
    batch = hand_in(api, **said, on_invalid="reject")
    end(api, queue(api, batch, ["0"]))
    settle(api, batch)

    overrides = {"seed": None, "strength": 0.4}
    again = change(api, batch, "retry", json={"overrides": overrides}).json()

    assert {name: again[name] for name in said} == said
    kept = {"defaults": {}, "on_invalid": "skip", "metadata": {"k": "v"}, "overrides": overrides}
    assert request_of(api, again) == kept


def test_a_line_that_cannot_be_tried_again_keeps_no_other_from_it_unless_wished(api: Api) -> None:
    batch, _ = over(api, "failed")

    assert change(api, batch, "retry").json()["on_invalid"] == "skip"
    assert change(api, batch, "retry", json={"on_invalid": "reject"}).json()["on_invalid"] == "reject"
    assert change(api, batch, "retry", json={"on_invalid": "stop"}).status_code == 422


def test_lines_that_were_canceled_before_they_had_a_job_are_not_lost_silently(api: Api) -> None:
    names = ["a", "b", "c"]
    unqueued = hand_in(api, items=[{"prompt": "x", "custom_id": name} for name in names])
    change(api, unqueued, "cancel")
    halfway = hand_in(api, items=[{"prompt": "x", "custom_id": name} for name in names])
    made = queue(api, halfway, names[:1])
    end(api, made)
    change(api, halfway, "cancel")
    work = take(api, halfway)
    with api.database.write() as connection:
        rest = [batch_work.NewItem(line, names[line], job=make_job(batch_id=work.id)) for line in (1, 2)]
        assert batch_work.insert_items(connection, work, rest, 60) == {}
        assert batch_work.put_back(connection, work, 0)
    assert settle(api, halfway)["counts"]["canceled"] == 2

    refused = change(api, halfway, "retry", json={"include_canceled": True})
    assert (refused.status_code, refused.json()["code"]) == (409, "not_editable")
    assert refused.json()["detail"].startswith("2 lines were canceled before they had a job")
    assert [line["retry_of"] for line in manifest_of(api, change(api, halfway, "retry").json())] == made
    whole = change(api, unqueued, "retry", json={"include_canceled": True}).json()
    assert whole["detail"].startswith("3 lines ")


def test_a_retry_takes_an_image_for_all(api: Api) -> None:
    batch, _ = over(api, "failed")

    again = change(api, batch, "retry", json={"overrides": {"image": data_url()}}).json()

    assert list(request_of(api, again)["overrides"]["image"]) == ["upload"]


@pytest.mark.parametrize(
    ("body", "pointer", "code"),
    [
        ({"overrides": {"strenght": 1}}, "/overrides/strenght", "unknown_field"),
        ({"overrides": {"strength": 2}}, "/overrides/strength", "validation_error"),
        ({"overrides": {"priority": "low"}}, "/overrides/priority", "validation_error"),
        ({"overrides": {"webhook": None}}, "/overrides/webhook", "validation_error"),
        ({"overrides": []}, "/overrides", "validation_error"),
        ({"include_canceled": 1}, "/include_canceled", "validation_error"),
        ({"override": {}}, "/override", "unknown_field"),
    ],
)
def test_wrong_overrides_are_refused_with_the_field(api: Api, body: Json, pointer: str, code: str) -> None:
    batch, _ = over(api, "failed")

    answer = change(api, batch, "retry", json=body)

    (problem,) = answer.json()["errors"]
    assert (answer.status_code, problem["pointer"], problem["code"]) == (422, pointer, code)


def test_a_batch_that_is_not_over_cannot_be_retried(api: Api) -> None:
    batch, made = running(api)
    end(api, made[:1])

    answer = change(api, batch, "retry")

    assert (answer.status_code, answer.json()["code"]) == (409, "not_editable")


def test_a_batch_of_which_nothing_failed_cannot_be_retried(api: Api) -> None:
    done, _ = over(api, "succeeded", "canceled")
    rejected = hand_in(api)
    reject(api, rejected)

    for batch in (done, rejected):
        answer = change(api, batch, "retry")
        assert (answer.status_code, answer.json()["code"]) == (409, "not_editable")
    assert len([key for key in api.store.objects if key.startswith("manifests/")]) == 2


def test_wrong_lines_and_erased_jobs_are_not_tried_again(api: Api) -> None:
    batch = hand_in(api, items=[{"prompt": "x"}] * 3, on_invalid="skip")
    made = queue(api, batch, ["a", None, "c"])
    end(api, made)
    settle(api, batch)
    with api.database.write() as connection:
        connection.execute(update(jobs).where(jobs.c.id == made[0]).values(erased_at=now()))

    again = change(api, batch, "retry").json()

    assert manifest_of(api, again) == [{"custom_id": "c", "retry_of": made[1]}]


def test_a_retry_repeated_with_its_key_is_one_batch(api: Api) -> None:
    batch, _ = over(api, "failed")
    key = {"Idempotency-Key": "again"}

    first = change(api, batch, "retry", headers=key)
    second = change(api, batch, "retry", headers=key)
    other = change(api, batch, "retry", headers=key, json={"include_canceled": True})

    assert (first.status_code, second.status_code) == (202, 202)
    assert second.json() == first.json()
    assert second.headers["idempotent-replayed"] == "true"
    assert other.json()["code"] == "idempotency_mismatch"


def test_a_retry_has_a_priority_that_the_key_may_use(make_api: Callable[..., Api]) -> None:
    api = make_api(auth="keys")
    headers = key_for(api, "jobs:read", "jobs:write")
    batch = hand_in(api, headers)
    end(api, queue(api, batch, ["0"]))
    work = take(api, batch)
    with api.database.write() as connection:
        assert batch_work.settle_batch(connection, work)
    with api.database.write() as connection:
        connection.execute(update(batches).values(lane="high"))

    assert change(api, batch, "retry", headers=headers).json()["priority"] == "normal"


# The webhook of a batch


def test_a_batch_brings_its_own_endpoint_and_hands_it_on(make_api: Callable[..., Api]) -> None:
    api = make_api(outbound=public_hosts())
    batch = hand_in(api, webhook={"url": URL, "secret": SECRET})
    end(api, queue(api, batch, ["0"]))
    settle(api, batch)

    again = change(api, batch, "retry").json()

    first, second = rows(api.database)
    assert (first.batch_id, first.job_id, first.url) == (batch["id"], None, URL)
    assert first.events == ["batch.completed", "batch.canceled"]
    assert (second.batch_id, second.secret) == (again["id"], first.secret)


@pytest.mark.parametrize(
    ("webhook", "pointer", "code"),
    [
        ({"url": "https://10.1.2.3/", "secret": OTHER_SECRET}, "/webhook/url", "url_blocked"),
        ({"url": URL}, "/webhook/secret", "validation_error"),
        ({"url": URL, "secret": "x"}, "/webhook/secret", "validation_error"),
        ({"url": URL, "secret": SECRET, "events": ["job.failed"]}, "/webhook/events/0", "validation_error"),
    ],
)
def test_an_endpoint_that_cannot_be_is_refused(
    make_api: Callable[..., Api], webhook: Json, pointer: str, code: str
) -> None:
    api = make_api(outbound=public_hosts())

    answer = api.client.post("/v1/batches", json={"items": [{}], "webhook": webhook})

    (problem,) = answer.json()["errors"]
    assert (answer.status_code, problem["pointer"], problem["code"]) == (422, pointer, code)
    assert api.store.objects == {}
