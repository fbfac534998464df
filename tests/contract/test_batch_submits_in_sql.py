"""Batches over the API on both databases: one of them for one key, and lists of their jobs and of what failed."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import func, select, update
from starlette.testclient import TestClient

from api.main import create_app
from common import failpoints
from common.db.batch_retries import list_ended
from common.db.engine import Database
from common.db.tables import batches, idempotency_keys, jobs, objects
from common.db.tenants import create_tenant
from common.db.types import now
from common.settings import Settings
from tests.unit.api.conftest import Api
from tests.unit.api.fakes import FakeDecoder, MemoryStore, RecordingBell
from tests.unit.api.tending import end, hand_in, queue, settle

KEY = {"Idempotency-Key": "order-17"}
LINE = {"prompt": "x"}


@pytest.fixture
def api(database: Database, tmp_path: Path) -> Iterator[Api]:
    store, bell, decoder = MemoryStore(), RecordingBell(), FakeDecoder()
    settings = Settings(_env_file=None, data_dir=tmp_path)
    app = create_app(settings, database=database, store=store, doorbell=bell, decoder=decoder)
    with ExitStack() as stack:
        client = stack.enter_context(TestClient(app, base_url="http://127.0.0.1:8000"))
        yield Api(client, app, database, store, decoder, bell)


def count(database: Database, table: Any) -> int:
    with database.read() as connection:
        return connection.execute(select(func.count()).select_from(table)).scalar_one()


def test_fifty_at_once_with_one_key_make_one_batch(api: Api) -> None:
    def send(_: int) -> tuple[int, str | None]:
        answer = api.client.post("/v1/batches", json={"items": [LINE]}, headers=KEY)
        return answer.status_code, answer.json().get("id")

    with ThreadPoolExecutor(50) as pool:
        answers = list(pool.map(send, range(50)))

    made = {batch_id for status, batch_id in answers if status == 202}
    assert len(made) == 1
    assert {status for status, _ in answers} <= {202, 409, 503}
    assert (count(api.database, batches), count(api.database, idempotency_keys)) == (1, 1)
    assert api.bell.courier_rings == 1


@pytest.mark.parametrize("point", ["batch_stored", "batch_inserted", "batch_committed"])
def test_a_submit_that_dies_and_is_repeated_makes_one_batch_and_at_most_one_orphan(api: Api, point: str) -> None:
    failpoints.arm(f"api.{point}:unavailable")
    try:
        answer = api.client.post("/v1/batches", json={"items": [LINE]}, headers=KEY)
        assert answer.status_code == 503
    finally:
        failpoints.arm("")

    hand_in(api, KEY, items=[LINE])

    assert count(api.database, batches) == 1
    with api.database.read() as connection:
        lives = [(row.expires_at - row.created_at).total_seconds() for row in connection.execute(select(objects))]
    assert len([life for life in lives if life > 7200]) == 1
    assert len(lives) <= 2


def test_a_list_of_jobs_can_be_that_of_one_batch(api: Api) -> None:
    api.submit()
    first = hand_in(api, items=[LINE] * 3)
    mine = queue(api, first, ["a", "b", "c"])
    second = hand_in(api)
    queue(api, second, ["a"])
    end(api, mine[:1])

    assert {one["id"] for one in api.client.get(f"/v1/jobs?batch={first['id']}").json()["data"]} == set(mine)
    assert len(api.client.get(f"/v1/batches/{second['id']}/jobs").json()["data"]) == 1
    failed = api.client.get(f"/v1/batches/{first['id']}/jobs?status=failed").json()["data"]
    assert [one["id"] for one in failed] == mine[:1]


def test_what_failed_is_listed_in_order_page_by_page(api: Api) -> None:
    batch = hand_in(api, items=[LINE] * 5)
    made = queue(api, batch, ["a", None, "c", "d", "e"])
    end(api, [made[0], made[2], made[3]])
    end(api, [made[1]], "canceled")
    with api.database.write() as connection:
        connection.execute(update(jobs).where(jobs.c.id == made[3]).values(erased_at=now()))

    def found(**changes: Any) -> list[str]:
        wishes = {"after_line": -1, "limit": 10, "with_canceled": False} | changes
        with api.database.read() as connection:
            return [one.custom_id for one in list_ended(connection, "default", batch["id"], **wishes)]

    assert found() == ["a", "d"]
    assert found(with_canceled=True) == ["a", "c", "d"]
    assert found(limit=1) == ["a"]
    assert found(after_line=0) == ["d"]


def test_another_tenants_items_are_not_listed(api: Api) -> None:
    batch = hand_in(api)
    end(api, queue(api, batch, ["a"]))
    with api.database.write() as connection:
        create_tenant(connection, "other", "Other")

    with api.database.read() as connection:
        assert list_ended(connection, "other", batch["id"], after_line=-1, limit=1, with_canceled=True) == []


def test_a_whole_life(api: Api) -> None:
    batch = hand_in(api, items=[LINE] * 3)
    made = queue(api, batch, ["a", "b", "c"])

    def change(way: str) -> Any:
        answer = api.client.post(f"/v1/batches/{batch['id']}/{way}")
        assert answer.status_code in {200, 202}, answer.text
        return answer.json()

    assert change("pause")["status"] == "paused"
    assert change("resume")["status"] == "running"
    end(api, made[:1])
    assert change("cancel")["counts"] | {"total": 0} == {
        "total": 0,
        "queued": 0,
        "running": 0,
        "succeeded": 0,
        "failed": 1,
        "canceled": 2,
    }
    assert settle(api, batch)["status"] == "canceled"
    again = change("retry")
    assert (again["retry_of"], again["counts"]["total"]) == (batch["id"], 1)
