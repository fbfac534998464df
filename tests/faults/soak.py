"""The soak: jobs are submitted while a random process is killed every 1 to 5 seconds, and none may be lost or doubled.

`python -m tests.faults.soak --seeds 10 --jobs 1000`. A seed decides the jobs, who is struck, when and how; the machine
decides the rest, so a replay meets the same faults at about the same places.
"""

import argparse
import json
import os
import random
import signal
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Final

import httpx
from sqlalchemy import func, select

from common.db.tables import jobs
from common.domain.lifecycle import TERMINAL, JobState, Outcome
from common.storage.port import ObjectStore
from tests.faults.clients import Clients, Order, make_orders
from tests.faults.clusters import own_redis
from tests.faults.deployment import Deployment, Life, Part, deployment
from tests.faults.invariants import Facts, orphans, read_facts, violations, wrong_counts
from tests.faults.pictures import wrong_as_served, wrong_in_store
from tests.faults.recovery import Rescue, lost_without_a_blow, percentile, rescues
from tests.faults.soak_report import write_report
from tests.processes.harness import eventually
from tests.services.swift import run_swift

SETTINGS: Final = {"DARKROOM_STUB_STEP_SECONDS": "0.05", "DARKROOM_MAX_TRIES": "100"}
BETWEEN_SECONDS: Final = (1.0, 5.0)
STOP_SECONDS: Final = (2.5, 4.0)
STOP_SHARE: Final = 0.15
_END_SECONDS: Final = 300.0
_SERVED_SAMPLE: Final = 100


@dataclass(frozen=True, slots=True)
class SeedResult:
    """What one seed did and what was seen; seconds are of this machine's clocks, `recovery` of the database's.

    `blows` counts signals by role. `load` is the machine's load average over five minutes, at the end; `sweeper_starts`
    how long the sweepers took from their start to their work.
    """

    seed: int
    jobs: int
    sweepers: int
    seconds: float
    blows: dict[str, int]
    stops: int
    states: dict[str, int]
    attempts: int
    attempts_lost: int
    lost_without_a_blow: int
    orphans: int
    pictures_served: int
    violations: list[str]
    load: float
    sweeper_starts: list[float]
    rescues: list[Rescue] = field(default_factory=list)

    @property
    def recovery(self) -> list[float]:
        """Seconds from a blow until each job that its victim held was back."""
        return [one.rescued for one in self.rescues]

    def count(self, *invariants: str) -> int:
        """How many violations of these there are."""
        return sum(one.split()[0] in invariants for one in self.violations)


_SWEEPERS: Final = 2  # one alone leaves a gap as long as the start of its successor


def run_seed(
    seed: int, job_count: int, folder: Path, *, store_url: str = "", broker_url: str, pause_seconds: float = 0.0
) -> SeedResult:
    """One soak in a deployment of its own, whose files lie in `folder`. `pause_seconds` slows the clients down."""
    began = time.monotonic()
    chance = random.Random(seed)
    services = {"store_url": store_url, "broker_url": broker_url}
    with deployment(folder, workers=2, sweepers=_SWEEPERS, seed=seed, **services, **SETTINGS) as made:
        clients = Clients(made.url, make_orders(seed, job_count), pause_seconds=pause_seconds)
        clients.start()
        try:
            with made.keep_alive():
                clients.until_submitted(lambda: _strike(made, chance))
                eventually(lambda: not _unfinished(made), seconds=_END_SECONDS, what="the end of all jobs")
        finally:
            clients.stop()
        clients.check()
        return _look_back(made, seed, clients, time.monotonic() - began)


def _strike(made: Deployment, chance: random.Random) -> None:
    """Wait a little, then kill a process, or stop it for longer than a lease."""
    _wait(chance.uniform(*BETWEEN_SECONDS))
    stops = chance.random() < STOP_SHARE
    seconds = chance.uniform(*STOP_SECONDS)
    victim = chance.choice(made.of_role())
    if not victim.is_alive or (victim.role == "worker" and _may_poison(made, victim)):
        return
    if not stops:
        made.kill(victim.name)
        return
    made.kill(victim.name, signal.SIGSTOP)
    _wait(seconds)
    made.kill(victim.name, signal.SIGCONT)


def _wait(seconds: float) -> None:
    threading.Event().wait(seconds)


def _may_poison(made: Deployment, victim: Part) -> bool:
    """Whether this worker holds a job that was alone in a process that died: a second time would rightly poison it."""
    _, worker_id = made.look(victim.pid)
    endangered = (jobs.c.worker_id == worker_id) & (jobs.c.solo_crashes > 0)
    with made.database.read() as connection:
        return bool(connection.execute(select(func.count()).select_from(jobs).where(endangered)).scalar_one())


def _unfinished(made: Deployment) -> int:
    with made.database.read() as connection:
        query = select(func.count()).select_from(jobs).where(jobs.c.state.not_in(TERMINAL))
        return int(connection.execute(query).scalar_one())


def _sweeper_start(life: Life) -> float | None:
    return life.start_seconds() if life.role == "sweeper" else None


class _ReadOnce:
    """A store at rest whose objects are fetched once, however many checks want them."""

    def __init__(self, store: ObjectStore) -> None:
        self.get = cache(store.get)
        self.list = store.list


def _look_back(made: Deployment, seed: int, clients: Clients, seconds: float) -> SeedResult:
    orders, history = clients.history.submitted(), clients.history
    made.revive()
    made.until_ready()
    store = _ReadOnce(made.store)
    found = list(violations(made.database, store, orders, history=history))
    facts = read_facts(made.database)
    found += wrong_ends(facts, orders, history.cancelled())
    with httpx.Client(base_url=made.url, timeout=30) as client:
        found += wrong_counts(made.database, client)
    found += wrong_in_store(made.database, store)
    sample = dict(random.Random(seed).sample(sorted(orders.items()), min(_SERVED_SAMPLE, len(orders))))
    found += wrong_as_served(made.url, sample)
    tried = [row for rows in facts.attempts.values() for row in rows]
    return SeedResult(
        seed=seed,
        jobs=len(orders),
        sweepers=len(made.of_role("sweeper")),
        seconds=seconds,
        blows=dict(Counter(blow.role for blow in made.blows if blow.signal is not signal.SIGCONT)),
        stops=sum(blow.signal is signal.SIGSTOP for blow in made.blows),
        states=dict(Counter(str(job.state) for job in facts.jobs.values())),
        attempts=len(tried),
        attempts_lost=sum(row.outcome == Outcome.LOST for row in tried),
        lost_without_a_blow=lost_without_a_blow(facts, made.blows),
        orphans=len(orphans(made.database, made.store)),
        pictures_served=sum(order.count for order in sample.values()),
        violations=found,
        load=os.getloadavg()[1],
        sweeper_starts=[seconds for life in made.lives if (seconds := _sweeper_start(life)) is not None],
        rescues=rescues(facts, made.blows),
    )


def wrong_ends(facts: Facts, orders: dict[str, Order], cancelled: set[str]) -> Iterator[str]:
    """Jobs that should have succeeded and did not, and those that nobody was told of.

    Cancelled ones may end either way; a job that was twice hit alone in its process is rightly poisoned.
    """
    for job_id, job in facts.jobs.items():
        if job_id not in orders:
            yield f"S1 {job_id} exists, and no client was told of it"
        elif job.state == JobState.CANCELED and job_id not in cancelled:
            yield f"S2 {job_id} is canceled, and nobody wished it"
        elif job.state == JobState.FAILED and not (job.error["code"] == "poisoned" and job.solo_crashes >= 2):
            yield f"S3 {job_id} failed: {job.error['code']}"
    keys = Counter(order.key for order in orders.values())
    yield from (f"S4 {key} made {count} jobs" for key, count in keys.items() if count > 1)


def main() -> None:
    """Run the seeds one after the other; exits with 1 when an invariant was broken."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults.soak")
    parser.add_argument("--seeds", type=int, default=10, help="how many seeds")
    parser.add_argument("--first-seed", type=int, default=1, help="the first of them")
    parser.add_argument("--jobs", type=int, default=1000, help="jobs of each seed")
    parser.add_argument("--pause", type=float, default=0.0, help="seconds between two submits of each of 4 clients")
    parser.add_argument("--store", choices=("s3", "folder"), default="s3", help="where objects lie")
    parser.add_argument("--json", type=Path, help="write all results here")
    parser.add_argument("--report", type=Path, help="write the page here")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended by a signal"))  # so that what was started ends too
    seeds = range(options.first_seed, options.first_seed + options.seeds)
    results = run_soak(seeds, options.jobs, store=options.store, pause_seconds=options.pause, tell=print)
    if options.json:
        options.json.write_text(json.dumps([_as_json(one) for one in results], indent=1) + "\n")
    if options.report:
        write_report(options.report, results, store=options.store)
    raise SystemExit(any(one.violations for one in results))


def run_soak(
    seeds: range, job_count: int, *, store: str, pause_seconds: float = 0.0, tell: Callable[[str], object]
) -> list[SeedResult]:
    """Every seed on one Redis and one store, each with a database of its own. `tell` gets a line per seed."""
    results = []
    with ExitStack() as cleanup:
        home = Path(cleanup.enter_context(tempfile.TemporaryDirectory(prefix="darkroom-soak-")))
        broker = cleanup.enter_context(own_redis(home))
        server = cleanup.enter_context(run_swift(home / "swift")) if store == "s3" else None
        for seed in seeds:
            (folder := home / str(seed)).mkdir()
            url = server.store_url(f"seed-{seed}") if server else ""
            result = run_seed(
                seed, job_count, folder, store_url=url, broker_url=broker.url, pause_seconds=pause_seconds
            )
            tell(summary(result))
            for violation in result.violations:
                tell(f"  {violation}")
            if result.violations:
                tell(f"  replay: python -m tests.faults.soak --seeds 1 --first-seed {seed} --jobs {job_count}")
            results.append(result)
    return results


def summary(result: SeedResult) -> str:
    """One line about a seed."""
    times = "/".join(f"{percentile(result.recovery, share):.2f}" for share in (0.5, 0.99, 1))
    return (
        f"seed {result.seed}: {result.states} in {result.seconds:.0f} s, struck {result.blows}, {result.stops} stopped,"
        f" {result.attempts_lost} of {result.attempts} attempts lost, {result.lost_without_a_blow} without a blow, "
        f"recovery p50/p99/max {times} s, {result.orphans} orphans, {len(result.violations)} violations"
    )


def _as_json(result: SeedResult) -> dict[str, Any]:
    return asdict(result)


if __name__ == "__main__":
    main()
