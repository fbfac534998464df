"""The page that a soak leaves behind: what was run, what was seen, how to run it again."""

import os
import platform
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Final

import psycopg
import redis

from tests.faults.recovery import Rescue, percentile
from tests.processes.harness import SCALED
from tests.service_urls import POSTGRES, REDIS

if TYPE_CHECKING:
    from tests.faults.soak import SeedResult

ALLOWANCE_SECONDS: Final = 0.5
CASES_BEGIN: Final = "<!-- cases: begin -->"
CASES_END: Final = "<!-- cases: end -->"

_ROLES: Final = ("worker", "api", "courier", "sweeper")
_HEAD: Final = """# Reliability: what the soak saw

Written by `python -m tests.faults.soak --report`; do not edit by hand, except between the marks of the last section.
"""
_METHOD: Final = """## What was run

A deployment of real processes on scaled clocks (lease {lease} s, heartbeat {heartbeat} s, sweep {sweep} s, poll
{poll} s): one API, two workers with the stub engine, a courier, two sweepers, PostgreSQL,
Redis and {store}. Four clients submit through the Python SDK, every submit with an Idempotency-Key:
txt2img and img2img with uploaded inputs, one to three images, all priorities; 4 % are cancelled at once. A fifth looks
at jobs all the time. Until the last submit is acknowledged, a random process is struck every 1 to 5 s: SIGKILL, or one
time in seven SIGSTOP for 2.5 to 4 s, longer than a lease, then SIGCONT. What dies is started again at once.
`DARKROOM_MAX_TRIES` is 100, so that no job runs out of tries. The workers have no launcher that could tell how they
ended, as when a whole machine dies: every rescue goes the slow way, by the lease.

One thing is left out on purpose. A worker that holds a job which was already alone in a process that died is spared:
without a launcher's word a second death would rightly poison the job.
"""
_RECOVERY: Final = """## Recovery

Counted from the database's clock right before the blow until the moment when each job that the victim held is back in
the queue, or ended. Its first loss makes a job runnable at once; after later ones it backs off by design
(`common/domain/retry.py`), so for those it is the moment when the delay began. The bound is lease + sweep + poll, with
the ± 20 % of the last two: {bound:.2f} s, and {allowance} s for statements and scheduling on a busy machine. With
one sweeper alone the start of its successor would come on top, which is not scaled with the clocks: run two. How long
these starts took, and the machine's load average, stand beside the figures.
"""
_CHECKED: Final = """## What was checked

After every seed, on all rows and all objects: every acknowledged job is terminal (I1); one terminal transition, only
edges of the table of moves (I2); a success has exactly its images, whose objects have the recorded SHA-256, others have
none (I3); one event per version (I4); results and attempts carry the winner's fence alone, none is open (I5); tries and
attempts agree and keep the budget (I6); `GET /v1/queue` equals a recount (I7); all that clients saw agrees with the
events, and no version went back (I8); every object that is needed exists, and objects without a row are those of lost
attempts (I9); no row crosses tenants (I10). Beyond these: no job without a client that was told of it, no key with two
jobs, none failed or cancelled without a reason. A stub's picture follows from the input's pixels, the prompt and the
seed: all were compared pixel by pixel in the store, and those of 100 jobs of each seed also as the API serves them.

## Running it again

    python -m tests.faults.soak --seeds {seeds} --first-seed {first} --jobs {jobs}

One seed alone: `--seeds 1 --first-seed N`. A seed decides the jobs, whom, when and how; the machine decides the rest.
"""


def write_report(path: Path, results: Sequence["SeedResult"], *, store: str) -> None:
    """Write the page; what stands between the marks of the cases is kept."""
    kept = _cases_of(path.read_text()) if path.exists() else "\n"
    path.write_text("\n".join(_sections(results, store)) + f"{CASES_BEGIN}{kept}{CASES_END}\n")


def bound_seconds() -> float:
    """Lease + sweep + poll on the scaled clocks, the last two at their longest."""
    lease, sweep, poll = (float(SCALED[f"DARKROOM_{name}_SECONDS"]) for name in ("LEASE", "SWEEP", "POLL"))
    return lease + 1.2 * (sweep + poll)


def _sections(results: Sequence["SeedResult"], store: str) -> list[str]:
    clocks = {name: SCALED[f"DARKROOM_{name.upper()}_SECONDS"] for name in ("lease", "heartbeat", "sweep", "poll")}
    described = {"s3": "a real S3 server", "folder": "a local folder"}[store]
    first, jobs = results[0].seed, results[0].jobs
    return [
        _HEAD,
        _summary(results),
        _METHOD.format(store=described, **clocks),
        _machine(),
        "## What was seen\n",
        _table(results),
        _RECOVERY.format(bound=bound_seconds(), allowance=ALLOWANCE_SECONDS),
        _recovery_table(results),
        _CHECKED.format(seeds=len(results), first=first, jobs=jobs),
        "## The cases and their tests\n",
    ]


def _summary(results: Sequence["SeedResult"]) -> str:
    jobs, blows = sum(one.jobs for one in results), sum(sum(one.blows.values()) for one in results)
    lost, doubled = count_lost(results), count_doubled(results)
    slowest = percentile([seconds for one in results for seconds in one.recovery], 0.99)
    return (
        f"{jobs} jobs on {len(results)} seeds, {blows} blows: **{lost} lost, {doubled} doubled**, "
        f"{count_wrong(results)} wrong\npictures, {sum(len(one.violations) for one in results)} violations in all. "
        f"Recovery p99 {slowest:.2f} s; lease + sweep + poll is {bound_seconds():.2f} s.\n"
    )


def count_lost(results: Sequence["SeedResult"]) -> int:
    """Violations that mean a lost job: not there, not over, without its results, or failed for no reason."""
    return sum(one.count("I1", "I3", "S3") for one in results)


def count_doubled(results: Sequence["SeedResult"]) -> int:
    """Violations that mean that something happened twice: transitions, events, attempts that won, jobs of one key."""
    return sum(one.count("I2", "I4", "I5", "S1", "S4") for one in results)


def count_wrong(results: Sequence["SeedResult"]) -> int:
    """Pictures, or numbers of pictures, that were not as ordered."""
    return sum(one.count("P1", "I9") for one in results)


def _machine() -> str:
    with psycopg.connect(POSTGRES.replace("+psycopg", "")) as connection:
        database = connection.info.server_version
    client = redis.Redis.from_url(REDIS)
    try:
        broker = client.info("server")["redis_version"]
    finally:
        client.close()
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return (
        f"{datetime.now(UTC):%Y-%m-%d}, {os.cpu_count()} cores, {memory:.0f} GiB, {platform.system()}, Python "
        f"{platform.python_version()}, Celery {version('celery')}, SQLAlchemy {version('sqlalchemy')}, PostgreSQL "
        f"{database // 10000}.{database % 10000}, Redis {broker}.\n"
    )


def _table(results: Sequence["SeedResult"]) -> str:
    head = (
        "| seed | jobs | sweepers | struck: " + " / ".join(_ROLES) + " | of these stopped | attempts | lost attempts "
        "| lost | doubled | wrong pictures | poisoned | seconds |"
    )
    rows = [head, "|" + "---|" * 12]
    for one in results:
        blows = " / ".join(str(one.blows.get(role, 0)) for role in _ROLES)
        cells = [one.seed, one.jobs, one.sweepers, blows, one.stops, one.attempts, one.attempts_lost]
        cells += [count_lost([one]), count_doubled([one]), count_wrong([one]), one.states.get("failed", 0)]
        rows.append("| " + " | ".join(map(str, [*cells, round(one.seconds)])) + " |")
    return "\n".join(rows) + "\n"


def _recovery_table(results: Sequence["SeedResult"]) -> str:
    head = "| seed | rescued attempts | p50 | p99 | max | claimed again p50 / p99 / max (first losses) | later losses "
    rows = [head + "| sweeper starts p50 / max | load |", "|" + "---|" * 9]
    rows += [f"| {one.seed} {_times(one.rescues)} {_starts(one.sweeper_starts)} | {one.load:.1f} |" for one in results]
    starts = [seconds for one in results for seconds in one.sweeper_starts]
    rows.append(f"| all {_times([rescue for one in results for rescue in one.rescues])} {_starts(starts)} | |")
    unexplained = sum(one.lost_without_a_blow for one in results)
    return "\n".join(rows) + (
        f"\n\nSeconds. {unexplained} further attempts were lost without a blow: the machine was too busy to renew a\n"
        "lease of two seconds, and the fence did the rest.\n"
    )


def _times(rescues: Sequence[Rescue]) -> str:
    times = [one.rescued for one in rescues]
    claimed = [one.claimed for one in rescues if one.claimed is not None and not one.backs_off]
    own = " | ".join(f"{percentile(times, share):.2f}" for share in (0.5, 0.99, 1))
    again = " / ".join(f"{percentile(claimed, share):.2f}" for share in (0.5, 0.99, 1))
    return f"| {len(rescues)} | {own} | {again} | {sum(one.backs_off for one in rescues)} |"


def _starts(starts: Sequence[float]) -> str:
    return f"{percentile(starts, 0.5):.1f} / {percentile(starts, 1):.1f}"


def _cases_of(text: str) -> str:
    _, found, rest = text.partition(CASES_BEGIN)
    return rest.partition(CASES_END)[0] if found else "\n"
