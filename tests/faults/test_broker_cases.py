"""Faults of the broker, cases 13 to 15: it may forget, be away, lie or hang; jobs are done all the same."""

import base64
import json
import pickle
import random
import signal
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import redis

from common.db.engine import Database
from common.queue.celery_app import DOORBELL_TASK, create_celery, pool_queue
from common.settings import Settings
from tests.faults.clusters import OwnRedis, own_redis
from tests.faults.proxy import FaultProxy
from tests.faults.scenes import (
    ANSWER_SECONDS,
    accepted,
    ask,
    assert_all_succeeded,
    for_seconds,
    scene,
    submit_once,
    tries_of,
)
from tests.processes.full import fresh_postgres
from tests.processes.harness import Stack, eventually

pytestmark = [pytest.mark.processes, pytest.mark.postgres, pytest.mark.redis]

CONSUMING_AGAIN_SECONDS = 60.0
NEVER_POLLS = {"DARKROOM_POLL_SECONDS": "600"}
FULL = [pytest.mark.chaos, pytest.mark.timeout(600)]


def sizes(scaled: float, full: float) -> pytest.MarkDecorator:
    """The test at both sizes of its fault, in seconds."""
    return pytest.mark.parametrize(
        "fault_seconds", [pytest.param(scaled, id="scaled"), pytest.param(full, id="full", marks=FULL)]
    )


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[OwnRedis]:
    with own_redis(tmp_path) as server:
        yield server


@pytest.fixture
def wire(broker: OwnRedis) -> Iterator[FaultProxy]:
    with FaultProxy(broker.port) as proxy:
        yield proxy


@pytest.fixture
def settings(broker: OwnRedis) -> Iterator[dict[str, str]]:
    with fresh_postgres() as url:
        yield {"DARKROOM_DATABASE_URL": url, "DARKROOM_BROKER_URL": broker.url}


def bells(broker: OwnRedis) -> int:
    """How many bells nobody has taken yet."""
    client = broker.client()
    try:
        return int(client.llen(f"darkroom:{pool_queue('default')}"))
    finally:
        client.close()


def wipe(broker: OwnRedis) -> None:
    client = broker.client()
    client.flushall()
    client.close()


def test_flushall_with_200_queued_loses_none(tmp_path: Path, broker: OwnRedis, settings: dict[str, str]) -> None:
    with scene(tmp_path, **settings, DARKROOM_STUB_STEP_SECONDS="0.01") as (built, database, client):
        made = accepted(client, 200)
        assert bells(broker) > 0
        wipe(broker)
        workers = [built.worker(), built.worker()]
        eventually(lambda: count_running(client), what="a running job")
        wipe(broker)
        assert_all_succeeded(built, database, made)
        assert tries_of(database) == {1}
        assert [worker.popen.poll() for worker in workers] == [None, None]


def count_running(client: httpx.Client) -> int:
    return len(client.get("/v1/jobs", params={"status": "running"}).json()["data"])


def test_after_flushall_doorbells_are_heard_again(tmp_path: Path, broker: OwnRedis, settings: dict[str, str]) -> None:
    with scene(tmp_path, **settings, **NEVER_POLLS) as (built, database, client):
        worker = built.worker()
        prove_that_bells_are_heard(built, database, client)
        wipe(broker)
        prove_that_bells_are_heard(built, database, client)
        assert worker.popen.poll() is None


def prove_that_bells_are_heard(built: Stack, database: Database, client: httpx.Client, seconds: float = 30) -> None:
    """To a worker that never polls. Bells may be lost, hence one more job now and then; one heard finds all."""
    made: list[str] = []

    def one_is_done() -> bool:
        made.extend(accepted(client, 1))
        for_seconds(1.0)
        return any(client.get(f"/v1/jobs/{job_id}").json()["status"] == "succeeded" for job_id in made)

    eventually(one_is_done, seconds=seconds, what="a bell that is heard")
    assert_all_succeeded(built, database, made, seconds=seconds)


@pytest.mark.parametrize("doorbells", ["true", "false"])
@sizes(5, 60)
def test_submits_are_accepted_and_done_while_the_broker_is_down(
    tmp_path: Path, broker: OwnRedis, settings: dict[str, str], fault_seconds: float, doorbells: str
) -> None:
    with scene(tmp_path, **settings, DARKROOM_DOORBELLS=doorbells) as (built, database, client):
        worker = built.worker()
        made = accepted(client, 3)
        broker.stop()
        reports: list[dict[str, Any]] = []

        def submit_and_look() -> None:
            submitted, ready = submit_once(client), ask(client, "GET", "/readyz")
            assert (submitted.status, ready.status) == (202, 200)
            assert max(submitted.seconds, ready.seconds) < ANSWER_SECONDS
            made.append(submitted.body["id"])
            reports.append(ready.body)

        for_seconds(fault_seconds, submit_and_look)
        assert_all_succeeded(built, database, made)
        assert reports[-1]["broker"] == ("degraded" if doorbells == "true" else "ok")
        broker.start()
        made += accepted(client, 3)
        eventually(lambda: client.get("/readyz").json()["broker"] == "ok", what="the report that the broker is back")
        assert_all_succeeded(built, database, made)
        assert tries_of(database) == {1}
        assert worker.popen.poll() is None


class Canary:
    """Pickled, this creates a file when it is read."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return open, (str(self._path), "w")


def test_each_doorbell_delivered_five_times_reordered_forged_or_pickled_is_harmless(
    tmp_path: Path, broker: OwnRedis, settings: dict[str, str]
) -> None:
    canary = tmp_path / "canary"
    with scene(tmp_path, **settings, DARKROOM_STUB_STEP_SECONDS="0.02") as (built, database, client):
        worker = built.worker()
        made = accepted(client, 20)
        knock(broker, [*genuine_bells(built.settings, 20) * 5, *forged_bells(canary) * 5])
        eventually(lambda: bells(broker) == 0, what="the end of the messages")
        made += accepted(client, 3)
        assert_all_succeeded(built, database, made)
        assert not canary.exists()
        assert tries_of(database) == {1}
        assert "consumer_ended" not in worker.log.read_text()
        assert worker.popen.poll() is None


def test_a_message_that_ends_the_consumer_is_not_met_again(
    tmp_path: Path, broker: OwnRedis, settings: dict[str, str]
) -> None:
    with scene(tmp_path, **settings, **NEVER_POLLS) as (built, database, client):
        worker = built.worker()
        prove_that_bells_are_heard(built, database, client)
        knock(broker, [forged({"not": "a name"}, [])])
        eventually(lambda: "consumer_ended" in worker.log.read_text(), what="the end of the consumer")
        prove_that_bells_are_heard(built, database, client)
        assert worker.log.read_text().count("consumer_ended") == 1
        assert worker.popen.poll() is None


def knock(broker: OwnRedis, messages: list[bytes]) -> None:
    """Put these on the queue of the pool, in an order that nobody meant."""
    random.Random(14).shuffle(messages)
    client = broker.client()
    client.rpush(f"darkroom:{pool_queue('default')}", *messages)
    client.close()


def genuine_bells(settings: Settings, count: int) -> list[bytes]:
    """Doorbells as an API sends them, taken from a queue that nobody listens to."""
    app, queue = create_celery(settings), "nobody"
    for _ in range(count):
        app.send_task(DOORBELL_TASK, queue=queue, ignore_result=True)
    client = redis.Redis.from_url(settings.broker)
    taken = client.lpop(f"darkroom:{queue}", count)
    client.close()
    app.close()
    assert isinstance(taken, list)
    return [bytes(message) for message in taken if isinstance(message, bytes)]


def forged_bells(canary: Path) -> list[bytes]:
    """Messages of an enemy who may write to the broker."""
    pickled = base64.b64encode(pickle.dumps(Canary(canary))).decode()
    empty: tuple[Any, ...] = ([], {}, {"callbacks": None, "errbacks": None, "chain": None, "chord": None})
    linked = {"callbacks": [{"task": "os.system", "args": [f"touch {canary}"], "kwargs": {}}]}
    return [
        forged("os.system", [[f"touch {canary}"], {}, {}]),
        forged("celery.backend_cleanup", empty),
        forged(DOORBELL_TASK, [[1, "two"], {"three": 4}, {}]),
        forged(DOORBELL_TASK, [[], {}, linked]),
        forged(DOORBELL_TASK, empty, headers={"eta": "2999-01-01T00:00:00+00:00"}),
        forged(DOORBELL_TASK, "not a list"),
        forged(DOORBELL_TASK, empty, raw=b"\x00\xff"),
        forged(DOORBELL_TASK, empty, content_type="application/x-python-serialize", body=pickled),
        forged("elsewhere", empty, content_type="application/x-python-serialize", body=pickled),
        forged(None, empty, content_type="application/x-python-serialize", body=pickled),
        forged(DOORBELL_TASK, empty, content_type="application/x-yaml"),
        forged(DOORBELL_TASK, empty, content_type="application/x-unheard-of", content_encoding="odd"),
    ]


def forged(task: Any, content: Any, **changes: Any) -> bytes:
    """A message as Celery writes them, with what is changed."""
    text = changes.pop("raw", None) or json.dumps(content).encode()
    identity = str(uuid.uuid4())
    headers = {"lang": "py", "task": task, "id": identity, "root_id": identity, "retries": 0, "origin": "elsewhere"}
    message = {
        "body": changes.pop("body", None) or base64.b64encode(text).decode(),
        "content-encoding": changes.pop("content_encoding", "utf-8"),
        "content-type": changes.pop("content_type", "application/json"),
        "headers": (headers if task else {}) | changes.pop("headers", {}),
        "properties": {
            "correlation_id": identity,
            "delivery_mode": 2,
            "delivery_info": {"exchange": "", "routing_key": pool_queue("default")},
            "priority": 0,
            "body_encoding": "base64",
            "delivery_tag": identity,
        },
    }
    return json.dumps(message).encode()


@sizes(2, 120)
def test_after_a_half_open_broker_connection_bells_are_heard_within_60_seconds(
    tmp_path: Path, wire: FaultProxy, broker: OwnRedis, settings: dict[str, str], fault_seconds: float
) -> None:
    with scene(tmp_path, **settings, **NEVER_POLLS) as (built, database, client):
        behind = {"DARKROOM_BROKER_URL": broker.url_at(wire.port)}
        worker = built.worker(**behind)
        prove_that_bells_are_heard(built, database, client)
        wire.blackhole()
        for_seconds(fault_seconds)
        wire.strand()
        wire.heal()
        prove_that_bells_are_heard(built, database, client, CONSUMING_AGAIN_SECONDS)
        assert worker.popen.poll() is None


def test_while_a_broker_connection_is_half_open_jobs_are_found_by_looking(
    tmp_path: Path, wire: FaultProxy, broker: OwnRedis, settings: dict[str, str]
) -> None:
    settings = settings | {"DARKROOM_BROKER_URL": broker.url_at(wire.port)}
    with scene(tmp_path, **settings) as (built, database, client):
        worker = built.worker()
        made = accepted(client, 3)
        assert_all_succeeded(built, database, made)
        wire.blackhole()
        for_seconds(3, lambda: made.extend(accepted(client, 1)), every_seconds=0.3)
        assert_all_succeeded(built, database, made)
        worker.signal(signal.SIGTERM)
        assert worker.wait() == 0


def test_after_20_resets_in_3_seconds_bells_are_heard_within_60_seconds(
    tmp_path: Path, wire: FaultProxy, broker: OwnRedis, settings: dict[str, str]
) -> None:
    with scene(tmp_path, **settings, **NEVER_POLLS) as (built, database, client):
        worker = built.worker(DARKROOM_BROKER_URL=broker.url_at(wire.port))
        prove_that_bells_are_heard(built, database, client)
        for _ in range(20):
            wire.reset()
            for_seconds(0.15)
        prove_that_bells_are_heard(built, database, client, CONSUMING_AGAIN_SECONDS)
        assert worker.popen.poll() is None
