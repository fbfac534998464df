"""Receivers that an API believes to be on the public internet, and their registration."""

import socket
from base64 import b64encode
from collections.abc import Sequence
from typing import Any

from sqlalchemy import select, update

from common.db.announcing import Event, announce_events
from common.db.engine import Database
from common.db.tables import deliveries, webhooks
from common.db.types import now
from common.outbound.addresses import IPAddress, Policy
from common.outbound.fetching import Outbound
from tests.unit.api.conftest import Api, Json
from tests.unit.outbound.hosts import Answers

URL = "https://hooks.example/darkroom?shop=7"
SECRET = "whsec_" + b64encode(b"a secret of more than 24 bytes").decode()
OTHER_SECRET = "whsec_" + b64encode(b"another one of more than 24 bytes").decode()

# Each is refused at save, whatever it is to be the address of.
BAD_URLS = [
    "http://hooks.example/",
    "https://127.0.0.1/",
    "https://localhost/",
    "https://10.1.2.3/",
    "https://169.254.169.254/latest/meta-data",
    "https://[::1]/",
    "https://user:pass@hooks.example/",
    "https://hooks.example:8080/",
    "https://inside.example/",
    "https://mixed.example/",
    "ftp://hooks.example/",
    "hooks.example",
]


class AwayNames:
    """A name service that does not answer."""

    def addresses(self, host: str, *, limit_seconds: float) -> Sequence[IPAddress]:
        raise socket.gaierror(socket.EAI_AGAIN, "try again")


def names_away() -> Outbound:
    """The strict policy, while no name can be looked up."""
    return Outbound(Policy(), AwayNames())


def public_hosts() -> Outbound:
    """The strict policy; of the names that it knows one is inside, and one has an address inside."""
    names = {
        "hooks_example": [["93.184.215.14"]],
        "inside_example": [["10.0.0.5"]],
        "mixed_example": [["93.184.215.14", "127.0.0.1"]],
    }
    return Outbound(Policy(), Answers(**names))


def register(api: Api, **members: Any) -> Json:
    """A standing webhook; the answer that shows its secret."""
    answer = api.client.post("/v1/webhooks", json={"url": URL} | members)
    assert answer.status_code == 201, answer.text
    made: Json = answer.json()
    return made


def rows(database: Database) -> list[Any]:
    """Every endpoint as it lies in the database, oldest first."""
    with database.read() as connection:
        return list(connection.execute(select(webhooks).order_by(webhooks.c.id)))


def disable(database: Database, webhook_id: str) -> None:
    """As a courier does after a 410."""
    with database.write() as connection:
        values = {"disabled_at": now(), "disabled_reason": "gone", "failing_since": now()}
        connection.execute(update(webhooks).where(webhooks.c.id == webhook_id).values(values))


def announce(database: Database, job_id: str, version: int, kind: str = "job.succeeded") -> None:
    """What a transition of this job writes for whoever wants to hear of it."""
    with database.write() as connection:
        assert announce_events(connection, [Event("default", job_id, version, kind)])


def end(database: Database, state: str = "failed", **values: Any) -> None:
    """As a courier leaves every delivery behind."""
    log = [{"at": "2026-01-31T12:00:00.000Z", "status": 500, "ms": 12, "response": "no", "error": None}]
    ended = {"state": state, "attempt": 1, "next_at": None, "ended_at": now(), "log": log, "body": '{"type": "x"}'}
    with database.write() as connection:
        connection.execute(update(deliveries).values(ended | values))
