"""Webhooks under faults, cases 20 and 21: bad receivers, receivers that are down, couriers that are killed."""

import os
import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import Row, insert
from standardwebhooks import Webhook

from common.db.jobs import cancel_job
from common.db.tables import tenants
from common.domain.webhook_events import EVENTS
from common.vault import open_vault
from tests.endpoints import SECRET, endpoint, rows_of, subscribe
from tests.faults.at_rest import assert_clean_end, submit_many, unfinished, until_all_over
from tests.faults.deployment import Deployment, deployment
from tests.faults.invariants import check
from tests.faults.receiver import RETRY_AFTER_SECONDS, Received, Receiver, receiver
from tests.making import submit
from tests.processes.harness import eventually

pytestmark = [pytest.mark.processes, pytest.mark.postgres, pytest.mark.redis]

FULL = pytest.mark.chaos
MARKER = "an unmistakable prompt"
SLACK = 3.0
TIMEOUT_SECONDS = 1.0
PAUSES = (0.2, 0.6)
SETTINGS = {
    "DARKROOM_ALLOW_PRIVATE_URLS": "true",
    "DARKROOM_SECRET_KEY": "a secret key of the tests that is long enough",
    "DARKROOM_WEBHOOK_SCHEDULE": ",".join(map(str, PAUSES)),
    "DARKROOM_WEBHOOK_TIMEOUT_SECONDS": str(TIMEOUT_SECONDS),
}
# How long the log may say that a call took: an answer in time may still be followed by a body.
LONGEST_MS = SLACK * TIMEOUT_SECONDS * 1000
FAILING = ("500", "hang", "drip", "reset", "redirect", "429")


@contextmanager
def couriers(folder: Path, count: int = 1, **settings: str) -> Iterator[tuple[Deployment, Receiver]]:
    """Couriers and a receiver; jobs end without workers, by being cancelled."""
    with (
        receiver(folder) as listening,
        deployment(folder, apis=0, workers=0, sweepers=0, couriers=count, **(SETTINGS | settings)) as made,
    ):
        yield made, listening


def listen(made: Deployment, listening: Receiver, path: str, *, tls: bool = False, **columns: Any) -> str:
    """An endpoint at this path of the receiver."""
    return subscribe(made.database, listening.url(path, tls=tls), vault=open_vault(made.stack.settings), **columns)


def add_tenant(made: Deployment, tenant_id: str) -> str:
    with made.database.write() as connection:
        connection.execute(insert(tenants).values(id=tenant_id, name=tenant_id))
    return tenant_id


def cancel_one(made: Deployment, tenant_id: str = "default") -> str:
    job = submit(made.database, tenant_id=tenant_id)
    with made.database.write() as connection:
        cancel_job(connection, tenant_id, job.id)
    return job.id


def until_told(made: Deployment, *, seconds: float = 60) -> None:
    """Wait until no delivery is under way."""
    eventually(lambda: not rows_of(made.database, state="pending"), seconds=seconds, what="the end of all deliveries")


def assert_genuine(received: list[Received]) -> None:
    """The reference library accepts every one of them."""
    assert received
    for one in received:
        Webhook(SECRET).verify(one.body, dict(one.headers))


@pytest.fixture(scope="module")
def bad_day(
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[tuple[Deployment, Receiver, dict[str, list[Row[Any]]]]]:
    """Every kind of bad receiver at once, each of a tenant of its own, with two events each; the rows by kind."""
    with couriers(tmp_path_factory.mktemp("bad")) as (made, listening):
        for mode in (*FAILING, "410", "endless", "slow", "flaky", "ok"):
            listen(made, listening, f"/{mode}", tenant_id=add_tenant(made, mode))
        listen(made, listening, "/tls", tls=True, tenant_id=add_tenant(made, "tls"))
        inside = {"tenant_id": add_tenant(made, "metadata"), "vault": open_vault(made.stack.settings)}
        subscribe(made.database, "http://169.254.169.254/latest/meta-data/", **inside)
        for mode in (*FAILING, "410", "endless", "slow", "flaky", "ok", "tls", "metadata"):
            for _ in range(2):
                cancel_one(made, mode)
        until_told(made)
        rows: dict[str, list[Row[Any]]] = {}
        for row in rows_of(made.database):
            rows.setdefault(row.tenant_id, []).append(row)
        yield made, listening, rows


BadDay = tuple[Deployment, Receiver, dict[str, list[Row[Any]]]]


def calls_of(listening: Receiver, row: Row[Any]) -> list[Received]:
    return [one for one in listening.received(f"/{row.tenant_id}") if one.event_id == row.event_id]


@pytest.mark.parametrize("mode", [*FAILING, "tls", "metadata"])
def test_a_bad_receiver_is_tried_by_the_schedule_and_given_up(bad_day: BadDay, mode: str) -> None:
    _, listening, rows = bad_day
    for row in rows[mode]:
        assert (row.state, row.attempt, len(row.log)) == ("failed", 1 + len(PAUSES), 1 + len(PAUSES))
        statuses = {entry["status"] for entry in row.log}
        assert statuses == {{"500": 500, "redirect": 302, "429": 429}.get(mode)}
        assert all((entry["error"] is None) == (entry["status"] is not None) for entry in row.log)
        assert all(entry["ms"] <= LONGEST_MS for entry in row.log)
        wanted = 0 if mode in {"tls", "metadata"} else 1 + len(PAUSES)
        # Some are written down when the receiver notices their end.
        eventually(lambda row=row, wanted=wanted: len(calls_of(listening, row)) >= wanted, what=f"{wanted} calls")
        calls = calls_of(listening, row)
        assert len(calls) == wanted
        assert len({one.body for one in calls}) <= 1
        for pause, (before, after) in zip(PAUSES, pairwise(sorted(one.at for one in calls)), strict=False):
            assert after - before >= 0.8 * pause
            if mode == "429":
                assert after - before >= RETRY_AFTER_SECONDS


def test_a_redirect_leads_nowhere(bad_day: BadDay) -> None:
    assert bad_day[1].received("/trap") == []


def test_an_endless_body_is_cut_and_counts_as_taken(bad_day: BadDay) -> None:
    _, listening, rows = bad_day
    for row in rows["endless"]:
        (entry,) = row.log
        assert (row.state, entry["status"], entry["response"]) == ("delivered", 200, "x" * 1024)
        assert entry["ms"] <= LONGEST_MS
    for one in listening.received("/endless"):
        assert one.sent < 32 << 20  # what the buffers of both machines' sockets may take
        assert one.seconds <= SLACK * TIMEOUT_SECONDS


def test_410_is_called_no_more(bad_day: BadDay) -> None:
    made, listening, rows = bad_day
    assert {row.state for row in rows["410"]} == {"disabled"}
    assert endpoint(made.database, rows["410"][0].webhook_id).disabled_reason == "gone"
    assert len(listening.received("/410")) <= 2


def test_a_receiver_that_recovers_or_is_slow_gets_everything_once(bad_day: BadDay) -> None:
    _, listening, rows = bad_day
    for mode, attempts in (("ok", 1), ("slow", 1), ("flaky", 3)):
        assert {(row.state, row.attempt) for row in rows[mode]} == {("delivered", attempts)}
        assert set(Counter(one.event_id for one in listening.received(f"/{mode}")).values()) == {attempts}


def test_whatever_was_received_is_genuine_and_no_rule_is_broken(bad_day: BadDay) -> None:
    made, listening, _ = bad_day
    assert_genuine([one for one in listening.received() if abs(one.at - time.time()) < 250])
    # The flaky one's refusals are written down as such by their path's mode, so only what was taken counts.
    check(made.database, made.store, [], received=listening.received())


def test_a_dead_endpoint_delays_no_other_tenant(tmp_path: Path) -> None:
    """150 events hang at a dead host for 15 seconds each, on all clocks of a real deployment; others arrive at once."""
    with couriers(tmp_path, DARKROOM_WEBHOOK_TIMEOUT_SECONDS="15") as (made, listening):
        dead = add_tenant(made, "dead")
        for number in range(5):
            listen(made, listening, f"/hang/{number}", tenant_id=dead)
        for _ in range(30):
            cancel_one(made, dead)
        eventually(
            lambda: sum(row.attempt > 0 for row in rows_of(made.database, tenant_id=dead)) >= 3, what="the flood"
        )
        listen(made, listening, "/ok")
        for _ in range(10):
            began, job_id = time.monotonic(), cancel_one(made)
            eventually(lambda job_id=job_id: rows_of(made.database, subject_id=job_id, state="delivered"), what="it")
            assert time.monotonic() - began < SLACK * 1.0
        in_the_air = [row for row in rows_of(made.database, tenant_id=dead) if row.worker_id]
        assert len(in_the_air) == 3


def test_what_a_webhook_says_of_an_end_is_what_a_poll_says(tmp_path: Path) -> None:
    public = {"DARKROOM_PUBLIC_URL": "https://darkroom.example"}
    with receiver(tmp_path) as listening, deployment(tmp_path, workers=1, **(SETTINGS | public)) as made:
        with httpx.Client(base_url=made.url, timeout=30) as client:
            hook = {"url": listening.url("/ok/all"), "events": list(EVENTS), "secret": SECRET}
            client.post("/v1/webhooks", json=hook).raise_for_status()
            own = {"url": listening.url("/flaky/own"), "secret": SECRET}
            wish = {"prompt": MARKER, "negative_prompt": MARKER, "num_images": 2, "metadata": {"a": "b"}}
            job = client.post("/v1/jobs", json=wish | {"webhook": own}).raise_for_status().json()
            eventually(lambda: len(rows_of(made.database, state="delivered")) == 3, what="three deliveries")
            polled = client.get(f"/v1/jobs/{job['id']}").raise_for_status().json()
            log = client.get("/v1/deliveries", params={"job": job["id"]}).raise_for_status().json()["data"]
        ends = [one for one in listening.received() if one.data["status"] == "succeeded"]
        assert {one.path for one in ends} == {"/ok/all", "/flaky/own"}
        expected = {name: value for name, value in polled.items() if name not in {"params", "warnings"}}
        assert [one.data for one in ends] == [expected] * 4
        assert {(one["event"], one["status"], one["attempt"]) for one in log} == {
            ("job.started", "delivered", 1),
            ("job.succeeded", "delivered", 1),
            ("job.succeeded", "delivered", 3),
        }
        assert_genuine(listening.received())
        assert not any(MARKER in one.body for one in listening.received())
        check(made.database, made.store, [job["id"]], received=listening.received())


@pytest.mark.parametrize("victims", [1, pytest.param(10, marks=FULL)])
def test_a_courier_killed_after_the_post_delivers_again_with_the_same_id(tmp_path: Path, victims: int) -> None:
    with couriers(tmp_path, count=0) as (made, listening):
        listen(made, listening, "/ok")
        for _ in range(victims):
            job_id = cancel_one(made)
            victim = made.start("courier", once="courier.posted:sigkill")
            made.leave_dead(victim.name)
            eventually(lambda victim=victim: not victim.is_alive, what="the kill")
            (row,) = rows_of(made.database, subject_id=job_id)
            assert (row.state, row.attempt, row.worker_id is not None) == ("pending", 1, True)
            healthy = made.start("courier")
            until_told(made)
            made.end(healthy.name)
            calls = [one for one in listening.received() if one.data["id"] == job_id]
            assert [one.is_taken for one in calls] == [True, True]
            assert len({(one.event_id, one.body) for one in calls}) == 1
            (row,) = rows_of(made.database, subject_id=job_id)
            assert (row.state, [entry["status"] for entry in row.log]) == ("delivered", [None, 204])
        assert_genuine(listening.received())
        check(made.database, made.store, [], received=listening.received())


@pytest.mark.parametrize("count", [60, pytest.param(500, marks=[FULL, pytest.mark.timeout(900)])])
def test_kills_of_workers_and_couriers_double_no_event_and_lose_none(tmp_path: Path, count: int) -> None:
    failpoints: Any = {"courier": "courier.posted:sigkill:0.02", "worker": "worker.committed:sigkill:0.02"}
    slow = {"DARKROOM_STUB_STEP_SECONDS": "0.02", "DARKROOM_MAX_TRIES": "50"}
    # A courier that dies in an attempt has spent it, so there are more than the flaky receiver needs.
    slow["DARKROOM_WEBHOOK_SCHEDULE"] = ",".join(["0.2"] * 12)
    with (
        receiver(tmp_path) as listening,
        deployment(tmp_path, apis=0, couriers=2, failpoints=failpoints, seed=5, **(SETTINGS | slow)) as made,
        made.keep_alive(),
    ):
        listen(made, listening, "/ok/all", events=EVENTS)
        listen(made, listening, "/flaky/ends")
        ids = submit_many(made, count)
        for number, job_id in enumerate(ids[::6]):
            listen(made, listening, f"/ok/{number}", job_id=job_id)
        with killing(made, random.Random(7)):
            until_all_over(made, seconds=600)
            until_told(made, seconds=600)
        assert not unfinished(made.database)
        assert {row.state for row in rows_of(made.database)} == {"delivered"}
        assert len(rows_of(made.database, kind="job.started")) <= count
        assert len(made.blows) >= 2
        recent = [one for one in listening.received() if abs(one.at - time.time()) < 250]
        assert_genuine(recent)
        check(made.database, made.store, ids, received=listening.received())
        assert_clean_end(made, ids)


@contextmanager
def killing(made: Deployment, chance: random.Random) -> Iterator[None]:
    """While the block lasts a worker or courier is killed every few seconds; what is left at its end runs on."""
    stop = threading.Event()

    def strike() -> None:
        while not stop.wait(chance.uniform(2.0, 6.0)):
            part = chance.choice(made.of_role("worker", "courier"))
            if part.is_alive:
                made.kill(part.name)

    thread = threading.Thread(target=strike, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def test_a_receiver_that_was_down_for_an_hour_gets_every_event_once_per_id(tmp_path: Path) -> None:
    """The hour is scaled as the schedule is: six seconds."""
    with couriers(tmp_path, count=2, DARKROOM_WEBHOOK_SCHEDULE="0.2,1,2,4,6") as (made, listening):
        listening.stop()
        for path in ("/ok/a", "/ok/b"):
            listen(made, listening, path)
        ids = {cancel_one(made) for _ in range(8)}
        eventually(lambda: min(row.attempt for row in rows_of(made.database)) >= 3, what="three attempts each")
        assert {row.state for row in rows_of(made.database)} == {"pending"}
        listening.start()
        until_told(made)
        rows = rows_of(made.database)
        assert {row.subject_id for row in rows} == ids
        assert len(rows) == 2 * len(ids)
        for row in rows:
            assert (row.state, len(row.log)) == ("delivered", row.attempt)
            assert [entry["status"] for entry in row.log] == [None] * (row.attempt - 1) + [204]
            assert all(entry["error"] for entry in row.log[:-1])
        received = listening.received()
        taken = Counter((one.path, one.event_id) for one in received if one.is_taken)
        assert set(taken.values()) == {1}
        assert len(taken) == 2 * len(ids)
        assert_genuine(received)
        check(made.database, made.store, [], received=received)


@pytest.mark.parametrize("signals", [1, 3])
def test_a_courier_told_to_leave_ends_its_calls_and_takes_nothing_more(tmp_path: Path, signals: int) -> None:
    with couriers(tmp_path, DARKROOM_WEBHOOK_TIMEOUT_SECONDS="60") as (made, listening):
        listen(made, listening, "/hang")
        cancel_one(made)
        eventually(lambda: [row for row in rows_of(made.database) if row.attempt], what="the call")
        part = made.parts["courier-0"]
        made.leave_dead(part.name)
        for _ in range(signals):
            os.kill(part.pid, signal.SIGTERM)
        eventually(lambda: "courier.draining" in part.process.log.read_text(), what="the drain")
        cancel_one(made)
        listening.stop()  # the call in hand breaks off
        assert part.process.wait(30) == 0
        first, second = rows_of(made.database)
        assert (first.state, first.attempt, first.worker_id, len(first.log)) == ("pending", 1, None, 1)
        assert (second.attempt, second.log) == (0, [])
