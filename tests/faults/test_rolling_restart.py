"""Deploys are invisible: every API and every worker is restarted in turn while clients, who repeat nothing, go on."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest

from common.domain.lifecycle import JobState, Outcome
from tests.faults.at_rest import assert_clean_end, states_of, until_all_over
from tests.faults.balancer import Balancer
from tests.faults.deployment import Deployment, deployment
from tests.faults.invariants import read_facts
from tests.processes.harness import eventually

pytestmark = [pytest.mark.processes, pytest.mark.postgres, pytest.mark.redis]

LINGER_SECONDS = "1"
SETTINGS = {
    "DARKROOM_LINGER_SECONDS": LINGER_SECONDS,
    "DARKROOM_STUB_STEP_SECONDS": "0.1",
    "DARKROOM_DRAIN_SECONDS": "0.5",
}


@dataclass
class Impatient:
    """A client that submits and looks, and for whom every answer but a good one is an error."""

    url: str
    name: int
    ids: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    stop: threading.Event = field(default_factory=threading.Event)

    def run(self) -> None:
        with httpx.Client(base_url=self.url, timeout=30, trust_env=False) as client:
            while not self.stop.wait(0.1):
                wish = {"prompt": f"{self.name} {len(self.ids)}", "num_inference_steps": 8, "seed": len(self.ids)}
                made = self._ask(client, "POST", "/v1/jobs", wish)
                if made is not None:
                    self.ids.append(made["id"])
                for job_id in self.ids[-3:]:
                    self._ask(client, "GET", f"/v1/jobs/{job_id}")

    def _ask(self, client: httpx.Client, method: str, path: str, wish: object = None) -> dict[str, str] | None:
        try:
            answer = client.request(method, path, json=wish) if wish else client.request(method, path)
        except httpx.HTTPError as error:
            self.errors.append(f"{method} {path}: {error!r}")
            return None
        if not answer.is_success:
            self.errors.append(f"{method} {path}: {answer.status_code} {answer.text}")
            return None
        found: dict[str, str] = answer.json()
        return found


@contextmanager
def impatient(url: str, count: int) -> Iterator[list[Impatient]]:
    """So many clients at work while the block lasts."""
    clients = [Impatient(url, number) for number in range(count)]
    threads = [threading.Thread(target=client.run, daemon=True) for client in clients]
    for thread in threads:
        thread.start()
    try:
        yield clients
    finally:
        for client in clients:
            client.stop.set()
        for thread in threads:
            thread.join()


def roll(made: Deployment, balancer: Balancer) -> None:
    """Restart every part in turn, each when the one before is at work again."""
    for part in made.of_role("api", "worker"):
        assert made.restart(part.name) == 0, part.process.log.read_text()
        made.until_ready()
        eventually(lambda: len(balancer.ready) == len(made.of_role("api")), what="the balancer's notice")


@pytest.mark.parametrize("rounds", [1, pytest.param(5, marks=pytest.mark.chaos)])
def test_a_rolling_restart_of_apis_and_workers_shows_no_client_an_error_and_spends_no_try(
    tmp_path: Path, rounds: int
) -> None:
    with deployment(tmp_path, apis=2, workers=2, couriers=0, **SETTINGS) as made:
        ports = [part.port for part in made.of_role("api")]
        with Balancer(ports) as balancer:
            eventually(lambda: len(balancer.ready) == 2, what="both APIs in the balancer")
            with impatient(balancer.url, 3) as clients:
                for _ in range(rounds):
                    roll(made, balancer)
        assert [error for client in clients for error in client.errors] == []
        ids = [job_id for client in clients for job_id in client.ids]
        assert len(ids) > 10
        until_all_over(made)
        assert set(states_of(made.database, ids).values()) == {JobState.SUCCEEDED}
        facts = read_facts(made.database)
        assert {job.tries for job in facts.jobs.values()} == {1}
        assert {row.outcome for rows in facts.attempts.values() for row in rows} <= {
            Outcome.SUCCEEDED,
            Outcome.RELEASED,
        }
        assert_clean_end(made, ids)
