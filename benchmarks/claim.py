"""How long a claim takes behind 10,000 and 1,000,000 queued jobs: `python -m benchmarks.claim [--claims 600]`.

Two PostgreSQL databases, filled by SQL and dropped at the end; the sizes take turns, claim by claim, so that what else
the machine does weighs on both. Then 100,000 held jobs come to the head of the larger one, and both are asked again.
Measured are the statements of a claim, and the claim with its commit, which is a disk flush and would hide them.
"""

import argparse
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, Final

from sqlalchemy import Integer, column, func, insert, literal, select, text, update

from benchmarks.measuring import percentile, summary, write
from common.db import claims
from common.db.engine import Database
from common.db.migrate import migrate
from common.db.tables import job_requests, jobs
from common.domain.affinity import NO_AFFINITY, Affinity
from tests.making import enlist, submit
from tests.processes.full import fresh_postgres

SMALL: Final = 10_000
LARGE: Final = 1_000_000
HELD: Final = 100_000
WARM_UP: Final = 20
GOAL: Final = 1.5
KEYS: Final = 16
_CHUNK: Final = 100_000
_AFFINITY: Final = Affinity(frozenset({"stub-1"}))

CASES: Final[dict[str, dict[str, Any]]] = {
    "one": {"limit": 1, "affinity": NO_AFFINITY},
    "eight": {"limit": 8, "affinity": NO_AFFINITY},
    "eight, a model loaded": {"limit": 8, "affinity": _AFFINITY},
}


class Queue:
    """A database with so many queued jobs of 16 step keys and two models, and one worker."""

    def __init__(self, url: str, rows: int) -> None:
        self.database = Database(url)
        migrate(self.database)
        self._template = submit(self.database).id
        with self.database.write() as connection:  # itself it is no part of the queue
            connection.execute(update(jobs).values(held="paused", step_key="template"))
        self._worker = enlist(self.database)
        self._last = 0
        self.add(rows)
        self._vacuum()

    def add(self, rows: int) -> None:
        """So many more jobs queue up behind the others."""
        self._fill(self._last + 1, self._last + rows, held=None)
        self._last += rows

    def hold(self, rows: int) -> None:
        """So many paused jobs come before all others."""
        self._fill(-rows, -1, held="paused")
        self._vacuum()

    def claim(self, case: str) -> tuple[float, float]:
        """Milliseconds of one claim: its statements alone, and with the transaction around them."""
        began = time.perf_counter()
        with self.database.write() as connection:
            started = time.perf_counter()
            got = claims.claim(
                connection,
                worker_id=self._worker,
                device="cpu",
                pool="default",
                lease_seconds=3600,
                alone=True,
                company="step",
                **CASES[case],
            )
            ended = time.perf_counter()
        if len(got) != CASES[case]["limit"]:
            raise RuntimeError(f"a claim brought {len(got)} jobs")
        return 1000 * (ended - started), 1000 * (time.perf_counter() - began)

    def count(self) -> dict[str, int]:
        """Claimable and held jobs."""
        query = select(func.count(), func.count(jobs.c.held)).where(jobs.c.state == "queued")
        with self.database.read() as connection:
            queued, held = connection.execute(query).one()
        return {"claimable": queued - held, "held": held}

    def _fill(self, first: int, last: int, *, held: str | None) -> None:
        """Copies of the one submitted job, at the tags `first` to `last`."""
        for begin in range(first, last + 1, _CHUNK):
            series = func.generate_series(begin, min(last, begin + _CHUNK - 1))
            numbers = series.table_valued(column("number", Integer)).render_derived(name="copies")
            number = numbers.c.number
            name = self._template + "-" + func.to_char(number + 2 * LARGE, "FM0000000")
            unlike = {
                "id": name,
                "job_id": name,
                "vtime": number * 0.25,
                "vfinish": number * 0.25 + 0.25,
                "held": literal(held),
                "model": func.concat("stub-", number % 2),
                "step_key": func.concat("key-", number % KEYS),
                "deadline_at": func.now() + text("interval '1 day'"),
            }
            with self.database.write() as connection:
                connection.execute(text("SET LOCAL session_replication_role = replica"))  # skips foreign keys
                for table, own in ((jobs, jobs.c.id), (job_requests, job_requests.c.job_id)):
                    values = [unlike.get(column.name, column) for column in table.c]
                    copies = select(*values).select_from(table.join(numbers, literal(True)))
                    connection.execute(insert(table).from_select(table.c.keys(), copies.where(own == self._template)))

    def _vacuum(self) -> None:
        with self.database.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.execute(text("VACUUM ANALYZE jobs, job_requests"))


@contextmanager
def opened(rows: int) -> Iterator[Queue]:
    """A queue in a database of its own, dropped with the block."""
    with fresh_postgres() as url:
        queue = Queue(url, rows)
        try:
            yield queue
        finally:
            queue.database.close()


def measure(queues: dict[str, Queue], count: int) -> dict[str, Any]:
    """Every case with that many claims of each queue in turn, and how much longer the larger one takes."""
    found: dict[str, Any] = {"jobs": {size: queue.count() for size, queue in queues.items()}}
    for case in CASES:
        taken: dict[str, list[tuple[float, float]]] = {size: [] for size in queues}
        for turn in range(WARM_UP + count):
            for size, queue in queues.items():
                figures = queue.claim(case)
                if turn >= WARM_UP:
                    taken[size].append(figures)
        for queue in queues.values():
            queue.add((WARM_UP + count) * CASES[case]["limit"])
        statements = {size: [one for one, _ in figures] for size, figures in taken.items()}
        with_commit = {size: [whole for _, whole in figures] for size, figures in taken.items()}
        p99, p50 = ({size: percentile(values, share) for size, values in statements.items()} for share in (0.99, 0.5))
        found[case] = {
            "statements_ms": {size: summary(values) for size, values in statements.items()},
            "with_commit_ms": {size: summary(values) for size, values in with_commit.items()},
            "large_vs_small": {
                "p50": round(p50["large"] / p50["small"], 3),
                "p99": round(p99["large"] / p99["small"], 3),
                "p99_with_commit": round(
                    percentile(with_commit["large"], 0.99) / percentile(with_commit["small"], 0.99), 3
                ),
            },
            "goal": {"p99_at_most": GOAL, "is_met": p99["large"] <= GOAL * p99["small"]},
        }
    return found


def main() -> None:
    """Fill, measure and write the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--claims", type=int, default=600)
    parser.add_argument("--rows", type=int, default=LARGE)
    arguments = parser.parse_args()
    with ExitStack() as stack:
        queues = {"small": stack.enter_context(opened(SMALL)), "large": stack.enter_context(opened(arguments.rows))}
        result = {"queued": measure(queues, arguments.claims)}
        queues["large"].hold(HELD)
        result["held at the head of the larger"] = measure(queues, arguments.claims)
    write("claim", {"what": "milliseconds of a claim, the sizes in turn", **result})


if __name__ == "__main__":
    main()
