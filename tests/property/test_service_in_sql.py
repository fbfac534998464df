"""The order of service in SQL is the one that is simulated: the same history gives the same claims, tags and times."""

from datetime import timedelta
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import insert, select, update

from common.db.engine import Database
from common.db.jobs import cancel_job
from common.db.tables import flows, jobs, pools, workers
from common.db.types import now
from common.domain.affinity import Affinity
from common.domain.fairness import Lane
from tests.making import claim, enlist, submit
from tests.property.rows import clear
from tests.unit.domain.service import Job, Service

POOLS = ("p", "q")
MODELS = ("m", "n")
PATIENCE_SECONDS = 3600.0
OFTEN = ("submit",) * 5 + ("claim",) * 4 + ("cancel", "pause", "resume", "resume", "later")

draws = st.integers(0, 1000)
commands = st.lists(
    st.tuples(st.sampled_from(OFTEN), draws, draws),
    min_size=20,
    max_size=60,
)


class Twin:
    """A database and a simulated service with the same history."""

    def __init__(self, database: Database) -> None:
        clear(database)
        self.database, self.service = database, Service()
        self.workers = {pool: [enlist(database, pool) for _ in range(2)] for pool in POOLS}
        self.made: list[Job] = []
        with database.write() as connection:
            connection.execute(insert(pools), [{"name": pool} for pool in POOLS])

    def submit(self, one: int, other: int) -> None:
        """Costs are sums of powers of two, so that both tell the same tags to the last bit."""
        frames = (1, 1, 1, 2, 4)[(one + other) % 5]
        job = Job(
            number=len(self.made),
            frames=frames,
            flow=(POOLS[one % 5 == 0], "default", list(Lane)[one % 3]),
            cost=(0.5, 1.0, 4.0, 8.0)[other % 4],
            model=MODELS[other % 2],
            key=f"{MODELS[other % 2]}{64 * (1 + one % 2)}",
        )
        params = {"model": job.model, "width": 64 * (1 + one % 2), "num_images": frames}
        submit(self.database, id=_id(job), pool=job.flow[0], lane=job.flow[2], cost=job.cost, params=params)
        self.service.submit(job)
        self.made.append(job)

    def claim(self, one: int, other: int) -> None:
        pool = POOLS[one % 5 == 0]
        worker, limit = self.workers[pool][one % 2], 1 + other % 6
        loaded = Affinity(frozenset(MODELS[other % 2 : other % 2 + one % 3]), PATIENCE_SECONDS)
        wishes = {"pool": pool, "limit": limit, "company": "step", "affinity": loaded}
        got = claim(self.database, worker, **wishes)
        due = self.service.claim(pool, worker, limit=limit, affinity=loaded)
        assert sorted(job.id for job in got) == sorted(map(_id, due))

    def cancel(self, one: int, _other: int) -> None:
        if self.made:
            job = self.made[-1 - one % len(self.made)]
            if self.service.cancel(job):
                with self.database.write() as connection:
                    cancel_job(connection, "default", _id(job))

    def pause(self, one: int, _other: int) -> None:
        pool = POOLS[one % 5 == 0]
        self.service.paused.add(pool)
        with self.database.write() as connection:
            connection.execute(update(pools).where(pools.c.name == pool).values(paused_at=now()))

    def resume(self, _one: int, _other: int) -> None:
        self.service.paused.clear()
        with self.database.write() as connection:
            connection.execute(update(pools).values(paused_at=None))

    def later(self, _one: int, _other: int) -> None:
        """Patience with whoever has been passed over ends."""
        self.service.now += PATIENCE_SECONDS
        with self.database.write() as connection:
            marked = select(jobs.c.id, jobs.c.passed_over_since).where(jobs.c.passed_over_since.is_not(None))
            for row in connection.execute(marked).all():
                since = row.passed_over_since - timedelta(seconds=PATIENCE_SECONDS)
                connection.execute(update(jobs).where(jobs.c.id == row.id).values(passed_over_since=since))

    def compare(self) -> None:
        with self.database.read() as connection:
            queued = select(jobs.c.id, jobs.c.vtime, jobs.c.passed_over_since).where(jobs.c.state == "queued")
            rows = {row.id: (row.vtime, row.passed_over_since is not None) for row in connection.execute(queued)}
            finish = {(row.pool, row.tenant_id, row.lane): row.finish for row in connection.execute(select(flows))}
            served = {(row.pool, row.id): row.served_vtime for row in connection.execute(select(workers))}
        waiting = [job for queue in self.service.queues.values() for job in queue]
        assert rows == {_id(job): (job.tag.start, job.passed_over_at is not None) for job in waiting}
        assert finish == {flow: self.service.finish[flow] for flow in {job.flow for job in self.made}}
        assert {name: tag for name, tag in served.items() if tag} == {
            name: tag for name, tag in self.service.served.items() if tag
        }


def _id(job: Job) -> str:
    return f"job_{job.number:04}"


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(history=commands)
def test_sql_serves_as_simulated(database: Database, history: list[tuple[str, int, int]]) -> None:
    twin = Twin(database)
    for name, one, other in history:
        command: Any = getattr(twin, name)
        command(one, other)
        if name != "submit":
            twin.compare()
    twin.compare()
