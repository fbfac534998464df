"""The register of living workers: who serves which pool, and whether a pool is served at all."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Row, delete, func, insert, select, update

from common.db.flows import virtual_time
from common.db.rescue import fold_vtime
from common.db.tables import jobs, workers
from common.db.types import after_now, now
from common.domain.lifecycle import JobState
from common.domain.retry import ProcessEnd


@dataclass(frozen=True, slots=True)
class WorkerCard:
    """What a worker says of itself. `device` is the operator's name of it, such as `cuda:1`.

    `launcher` is the token of the launcher that started it; with the process id it names the process among all hosts.
    """

    id: str
    pool: str
    hostname: str
    pid: int
    device: str
    launcher: str | None = None


def register(connection: Connection, card: WorkerCard) -> None:
    """A new process serves its pool; its virtual time starts where the pool's stands."""
    row = {name: getattr(card, name) for name in WorkerCard.__dataclass_fields__}
    vtime = virtual_time(connection, card.pool)
    connection.execute(insert(workers).values(row | {"state": "ready", "resident": [], "served_vtime": vtime}))


def beat(
    connection: Connection,
    card: WorkerCard,
    *,
    state: str,
    resident: tuple[str, ...],
    paces: Mapping[str, float] | None = None,
) -> None:
    """The worker lives, whatever was said of it; registers it again if it was forgotten meanwhile.

    `paces`: the device seconds per megapixel and step that it has measured, by model.
    """
    values = {
        "heartbeat_at": now(),
        "state": state,
        "resident": list(resident),
        "paces": None if paces is None else dict(paces),
        "ended": None,
    }
    if connection.execute(update(workers).where(workers.c.id == card.id).values(values)).rowcount == 0:
        register(connection, card)


def leave(connection: Connection, worker_id: str) -> None:
    """The worker ends in good order."""
    statement = delete(workers).where(workers.c.id == worker_id).returning(workers.c.pool, workers.c.served_vtime)
    for row in connection.execute(statement):
        fold_vtime(connection, row.pool, row.served_vtime)


def report_end(connection: Connection, launcher: str, pid: int, end: ProcessEnd) -> None:
    """What the launcher of this process saw of its end: nobody has to wait for its leases to run out.

    Nothing when it had left in good order.
    """
    process = (workers.c.launcher == launcher) & (workers.c.pid == pid) & workers.c.ended.is_(None)
    dead = list(connection.execute(update(workers).where(process).values(ended=end).returning(workers.c.id)).scalars())
    held = jobs.c.worker_id.in_(dead) & (jobs.c.state == JobState.RUNNING)
    connection.execute(update(jobs).where(held, jobs.c.lease_until > now()).values(lease_until=now()))


def count_live(connection: Connection, pool: str, fresh_seconds: float) -> int:
    """Ready workers of a pool with a heartbeat in the last `fresh_seconds`, and not known to be dead."""
    alive = (workers.c.heartbeat_at > after_now(-fresh_seconds)) & workers.c.ended.is_(None)
    fresh = (workers.c.pool == pool) & (workers.c.state == "ready") & alive
    return connection.execute(select(func.count()).select_from(workers).where(fresh)).scalar_one()


def list_workers(connection: Connection) -> list[Row[Any]]:
    """Every registered worker, by pool and device."""
    return list(connection.execute(select(workers).order_by(workers.c.pool, workers.c.hostname, workers.c.device)))
