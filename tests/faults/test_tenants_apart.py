"""I10: no row of one tenant in any answer to another, also while processes die under their jobs."""

from dataclasses import replace
from pathlib import Path

import httpx
import pytest

from common.db.tenants import SCOPES, create_key, create_tenant
from tests.faults.at_rest import assert_clean_end, until_all_over
from tests.faults.clients import Clients, make_orders
from tests.faults.deployment import Deployment, deployment
from tests.faults.invariants import foreign_answers
from tests.faults.pictures import wrong_as_served

pytestmark = [pytest.mark.processes, pytest.mark.postgres, pytest.mark.redis]


def new_tenant(made: Deployment, name: str) -> str:
    """A key of a new tenant."""
    with made.database.write() as connection:
        create_tenant(connection, name, name)
        return create_key(connection, name, name="test", scopes=list(SCOPES), expires_seconds=None)


def test_two_tenants_whose_workers_and_api_are_killed_see_their_own_jobs_and_nothing_else(tmp_path: Path) -> None:
    with deployment(tmp_path, couriers=0, DARKROOM_AUTH="keys", DARKROOM_STUB_STEP_SECONDS="0.05") as made:
        keys = {name: new_tenant(made, name) for name in ("anna", "ben")}
        # The same orders, so the same Idempotency-Keys and input pictures. A key gets no lane `high`.
        orders = [replace(order, priority="normal") for order in make_orders(1, 12)]
        clients = {name: Clients(made.url, orders, api_key=key, threads=2) for name, key in keys.items()}
        with made.keep_alive():
            for one in clients.values():
                one.start()
            for part in made.of_role("worker", "api"):
                made.kill(part.name)
            for one in clients.values():
                one.until_submitted(lambda: None)
            until_all_over(made)
            made.until_ready()
        for one in clients.values():
            one.stop()
        owned = {name: one.history.submitted() for name, one in clients.items()}
        assert not set(owned["anna"]) & set(owned["ben"])
        for name, foreign in (("anna", "ben"), ("ben", "anna")):
            assert list(wrong_as_served(made.url, owned[name], api_key=keys[name])) == []
            bearer = {"Authorization": f"Bearer {keys[name]}"}
            with httpx.Client(base_url=made.url, headers=bearer, timeout=30) as asking:
                assert foreign_answers(asking, list(owned[foreign])) == []
                shown = asking.get("/v1/jobs", params={"limit": 100}).json()["data"]
                assert {one["id"] for one in shown} == set(owned[name])
        assert_clean_end(made, {**owned["anna"], **owned["ben"]})
