"""What the cases of broker, database and store share: a stack with an API on given services, its load, and its end."""

import threading
import time
import uuid
from collections.abc import Callable, Collection, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
from sqlalchemy import select

from common.db.engine import Database
from common.db.tables import attempts, jobs
from common.domain.lifecycle import TERMINAL, JobState
from common.storage.open import open_store
from tests.faults.invariants import check
from tests.processes.full import start_api
from tests.processes.harness import Stack, eventually, stack

ANSWER_SECONDS = 2.0
WISH = {"prompt": "a blue square", "model": "stub", "num_inference_steps": 4, "width": 64, "height": 64}


@dataclass(frozen=True, slots=True)
class Answer:
    """What a request was answered with, and how long that took; status 0: the connection was lost."""

    status: int
    seconds: float
    retry_after: str | None = None
    body: dict[str, Any] = field(default_factory=dict)


@contextmanager
def scene(folder: Path, **environment: str) -> Iterator[tuple[Stack, Database, httpx.Client]]:
    """A stack of stubs on scaled clocks, its database and a client of its API, all ended with the block."""
    with (
        stack(folder, **environment) as built,
        closing(built.database) as database,
        httpx.Client(base_url=start_api(built), timeout=30) as client,
    ):
        yield built, database, client


def ask(client: httpx.Client, method: str, path: str, **arguments: Any) -> Answer:
    """One request and its answer, timed."""
    began = time.monotonic()
    try:
        answer = client.request(method, path, **arguments)
    except httpx.TransportError:
        return Answer(0, time.monotonic() - began)
    seconds = time.monotonic() - began
    return Answer(answer.status_code, seconds, answer.headers.get("retry-after"), answer.json())


def submit_once(client: httpx.Client, key: str | None = None, **fields: Any) -> Answer:
    """One submit over HTTP; without a key of the caller it has one of its own."""
    headers = {"Idempotency-Key": key or uuid.uuid4().hex}
    return ask(client, "POST", "/v1/jobs", json=WISH | fields, headers=headers)


def accepted(client: httpx.Client, count: int, **fields: Any) -> list[str]:
    """The ids of so many jobs, each accepted at once; their seeds count up."""
    answers = [submit_once(client, seed=seed, **fields) for seed in range(count)]
    assert {answer.status for answer in answers} <= {202}, [answer for answer in answers if answer.status != 202]
    return [answer.body["id"] for answer in answers]


def await_workers(client: httpx.Client, count: int) -> None:
    """Return once so many workers are registered."""
    eventually(lambda: client.get("/readyz").json()["workers_ready"] >= count, what=f"{count} workers")


@dataclass
class Load:
    """Clients that submit all the time, each request with its key until it is accepted.

    `acknowledged`: job id by key. `answers`: every answer, with what it was to.
    """

    url: str
    fields: dict[str, Any]
    pause_seconds: float
    patience_seconds: float
    acknowledged: dict[str, str] = field(default_factory=dict)
    answers: list[tuple[str, Answer]] = field(default_factory=list)
    stop: threading.Event = field(default_factory=threading.Event)

    def run(self, name: int) -> None:
        """Submit until stopped; what was begun is repeated until it is accepted."""
        with httpx.Client(base_url=self.url, timeout=30) as client:
            number = 0
            while not self.stop.wait(self.pause_seconds):
                number += 1
                self._insist(client, f"client-{name}-{number}", number)

    def _insist(self, client: httpx.Client, key: str, seed: int) -> None:
        deadline = time.monotonic() + self.patience_seconds
        pause = threading.Event()
        while time.monotonic() < deadline:
            answer = submit_once(client, key, seed=seed, **self.fields)
            self.answers.append(("submit", answer))
            if answer.status in {200, 202}:
                self.acknowledged[key] = answer.body["id"]
                return
            pause.wait(0.1)

    def refusals(self) -> dict[int, int]:
        """How many answers had each status but 2xx."""
        statuses = [answer.status for _, answer in list(self.answers) if not 200 <= answer.status < 300]
        return {status: statuses.count(status) for status in sorted(set(statuses))}


@contextmanager
def under_load(
    client: httpx.Client, *, clients: int = 2, pause_seconds: float = 0.05, patience_seconds: float = 60, **fields: Any
) -> Iterator[Load]:
    """Submits go on while the block lasts; afterwards each of them has been accepted or given up."""
    load = Load(str(client.base_url), fields, pause_seconds, patience_seconds)
    threads = [threading.Thread(target=load.run, args=(number,), daemon=True) for number in range(clients)]
    for thread in threads:
        thread.start()
    try:
        yield load
    finally:
        load.stop.set()
        for thread in threads:
            thread.join(load.patience_seconds + 30)


def for_seconds(seconds: float, act: Callable[[], object] = lambda: None, *, every_seconds: float = 0.05) -> None:
    """While a fault lasts: do this again and again."""
    ends_at = time.monotonic() + seconds
    pause = threading.Event()
    while time.monotonic() < ends_at:
        act()
        pause.wait(min(every_seconds, max(0.0, ends_at - time.monotonic())))


def unfinished(database: Database, ids: Collection[str]) -> list[str]:
    """Those of these jobs that are not terminal."""
    with database.read() as connection:
        over = set(connection.execute(select(jobs.c.id).where(jobs.c.state.in_(TERMINAL))).scalars())
    return [job_id for job_id in ids if job_id not in over]


def running(database: Database) -> dict[str, int]:
    """The fence of every job that has reached the device and is running now, by id."""
    with database.read() as connection:
        query = select(jobs.c.id, jobs.c.fence).where(jobs.c.state == JobState.RUNNING, jobs.c.attempt > 0)
        return {row.id: row.fence for row in connection.execute(query)}


def tries_of(database: Database) -> set[int]:
    """The different numbers of tries that jobs have spent."""
    with database.read() as connection:
        return set(connection.execute(select(jobs.c.tries)).scalars())


def outcomes(database: Database, job_id: str) -> list[str]:
    """How the job's attempts ended, in their order."""
    with database.read() as connection:
        query = select(attempts.c.outcome).where(attempts.c.job_id == job_id).order_by(attempts.c.fence)
        return [str(outcome) for outcome in connection.execute(query).scalars()]


def assert_all_succeeded(built: Stack, database: Database, ids: Collection[str], *, seconds: float = 60) -> None:
    """Each of these jobs succeeds within so many seconds, once, with its images; and no invariant is broken."""
    eventually(lambda: not unfinished(database, ids), seconds=seconds, what=f"the end of {len(ids)} jobs")
    with database.read() as connection:
        rows = {row.id: row for row in connection.execute(select(jobs.c.id, jobs.c.state, jobs.c.error))}
    wrong = [rows[job_id] for job_id in ids if rows[job_id].state != JobState.SUCCEEDED]
    assert not wrong, f"not succeeded: {wrong}"
    check(database, open_store(built.settings.store, None), ids)
