"""What a tenant has used, by day, and its limits."""

import pytest
from sqlalchemy import update

from api.schemas.usage import Usage
from common.db.tables import tenants, usage_days
from common.db.usage import Used, account
from tests.unit.api.conftest import Api


def used(api: Api, days: int | None = None) -> Usage:
    answer = api.client.get("/v1/usage" + ("" if days is None else f"?days={days}"))
    assert answer.status_code == 200, answer.text
    return Usage.model_validate(answer.json())


def test_a_tenant_that_did_nothing_has_thirty_days_of_noughts_and_no_limits(api: Api) -> None:
    found = used(api)

    assert len(found.data) == 30
    assert {(day.jobs, day.images, day.device_seconds) for day in found.data} == {(0, 0, 0.0)}
    assert set(found.limits.model_dump().values()) == {None}


def test_what_ended_counts_on_its_day_the_newest_first(api: Api) -> None:
    api.submit(num_images=1)
    api.develop()
    canceled = api.submit()
    api.client.post(canceled["urls"]["cancel"])
    with api.database.write() as connection:
        account(connection, "default", jobs=0, used=Used(device_seconds=1.23456))

    today, yesterday = used(api, days=2).data

    assert (today.jobs, today.images, today.device_seconds) == (2, 1, 1.235)
    assert (yesterday.jobs, yesterday.day < today.day) == (0, True)


def test_limits_are_those_of_the_tenant(api: Api) -> None:
    with api.database.write() as connection:
        values = {"max_queued": 500, "device_seconds_per_day": 3600.0}
        connection.execute(update(tenants).values(values))

    limits = used(api, days=1).limits

    assert (limits.max_queued, limits.device_seconds_per_day, limits.images_per_day) == (500, 3600.0, None)


def test_days_that_are_long_past_are_not_told(api: Api) -> None:
    with api.database.write() as connection:
        connection.execute(usage_days.insert().values(tenant_id="default", day="2020-01-01", shard=0, jobs=7))

    assert sum(day.jobs for day in used(api, days=90).data) == 0


@pytest.mark.parametrize("query", ["days=0", "days=91", "days=x", "weeks=2", "days=1&days=2"])
def test_other_ranges_are_refused(api: Api, query: str) -> None:
    answer = api.client.get(f"/v1/usage?{query}")

    assert (answer.status_code, answer.json()["code"]) == (422, "validation_error") or (
        answer.json()["code"] == "unknown_field"
    )
