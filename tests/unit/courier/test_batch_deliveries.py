"""What a courier tells of batches: the batch at its end, short, and once."""

from typing import Any

import pytest
from sqlalchemy import select, update

from common.db import webhooks as sql
from common.db.batch_work import reject
from common.db.tables import batches, webhooks
from common.db.webhooks import NewWebhook, Sealed
from common.domain.webhook_events import event_id
from common.settings import Settings
from common.webhook_body import MAX_BYTES
from courier.tools import Tools
from tests.endpoints import SECRET, rows_of, subscribe
from tests.making_batches import make_batch, queue_batch, settle, take
from tests.unit.courier.sending import OK, Maker, body_of, data_of, run, to, url_of
from tests.unit.outbound.hosts import Host


def own_webhook(tools: Tools, batch_id: str, url: str) -> str:
    new = NewWebhook(url, ("batch.completed",), Sealed(tools.vault.encrypt(SECRET)))
    with tools.database.write() as connection:
        assert sql.insert_batch_webhook(connection, "default", batch_id, new)
        return str(connection.execute(select(webhooks.c.id).where(webhooks.c.batch_id == batch_id)).scalar_one())


def rejected(tools: Tools, errors: list[dict[str, Any]]) -> str:
    batch_id = make_batch(tools.database, 100)
    work = take(tools.database, batch_id)
    with tools.database.write() as connection:
        assert reject(connection, work, errors, len(errors))
    return batch_id


def test_the_end_of_a_batch_is_told_to_its_own_endpoint_with_the_batch(make_tools: Maker, settled: Settings) -> None:
    with Host(OK) as host:
        tools = to(host, make_tools, settled)
        batch_id = queue_batch(tools.database, [None])
        webhook_id = own_webhook(tools, batch_id, url_of(host))
        settle(tools.database, batch_id)
        assert run(tools) == 1
        (visit,) = host.visits
    data = data_of(visit)
    assert (data["id"], data["status"], data["version"]) == (batch_id, "completed", 3)
    assert data["counts"] == {"total": 1, "queued": 0, "running": 0, "succeeded": 0, "failed": 1, "canceled": 0}
    assert data["urls"]["results"] == f"https://darkroom.example/v1/batches/{batch_id}/results"
    assert visit.headers["webhook-id"] == event_id(batch_id, 3)
    (row,) = rows_of(tools.database)
    assert (row.webhook_id, row.state, row.kind) == (webhook_id, "delivered", "batch.completed")


def test_a_rejected_batch_is_told_as_completed_with_its_errors(make_tools: Maker, settled: Settings) -> None:
    error = {"line": 3, "pointer": "/strength", "code": "validation_error", "detail": "too much"}
    with Host(OK) as host:
        tools = to(host, make_tools, settled)
        subscribe(tools.database, url_of(host), vault=tools.vault)
        rejected(tools, [error])
        run(tools)
        (visit,) = host.visits
    data = data_of(visit)
    assert (data["status"], data["errors"], data["error_count"]) == ("rejected", [error], 1)
    assert "truncated" not in data


@pytest.mark.parametrize(("detail", "kept"), [("x" * 100, 100), ("x" * 400, 30), ("x" * 1200, 10), ("x" * 3000, 0)])
def test_a_long_list_of_errors_is_cut_to_what_fits(
    make_tools: Maker, settled: Settings, detail: str, kept: int
) -> None:
    errors = [{"line": line, "pointer": "/p", "code": "validation_error", "detail": detail} for line in range(100)]
    with Host(OK) as host:
        tools = to(host, make_tools, settled)
        subscribe(tools.database, url_of(host), vault=tools.vault)
        rejected(tools, errors)
        run(tools)
        (visit,) = host.visits
    data = data_of(visit)
    assert len(body_of(visit)) < MAX_BYTES
    assert data["errors"] == errors[:kept]
    assert data["error_count"] == 100
    assert data.get("truncated", []) == ([] if kept == 100 else ["errors"])
    assert "images" not in data


def test_metadata_goes_where_the_body_would_still_be_too_long(make_tools: Maker, settled: Settings) -> None:
    metadata = {f"key{number}": "ü" * 500 for number in range(20)}
    request = {"defaults": {}, "on_invalid": "reject", "metadata": metadata}
    with Host(OK) as host:
        tools = to(host, make_tools, settled)
        subscribe(tools.database, url_of(host), vault=tools.vault)
        batch_id = queue_batch(tools.database, [None])
        with tools.database.write() as connection:
            connection.execute(update(batches).where(batches.c.id == batch_id).values(request=request))
        settle(tools.database, batch_id)
        run(tools)
        (visit,) = host.visits
    data = data_of(visit)
    assert len(body_of(visit)) < MAX_BYTES
    assert data["metadata"] == {}
    assert data["truncated"] == ["errors", "metadata"]
