"""How full the queues are, and whether anybody serves them."""

from dataclasses import dataclass

from api.dependencies import Services
from common.db.queue_stats import Depth, count_ready_workers, count_residents, count_running, depths


@dataclass(frozen=True, slots=True)
class QueueLook:
    """Totals over all tenants: depth by lane and model, running jobs and ready workers by pool."""

    depths: list[Depth]
    running: dict[str, int]
    workers_ready: dict[str, int]


def look_at_queue(services: Services) -> QueueLook:
    """The queues as they are now."""
    with services.database.read() as connection:
        ready = count_ready_workers(connection, services.settings.lease_seconds)
        return QueueLook(depths(connection), count_running(connection), ready)


def count_workers(services: Services) -> int:
    """Ready workers of all pools. Raises `Unavailable` when the database, or its schema, is not there."""
    with services.database.read() as connection:
        return sum(count_ready_workers(connection, services.settings.lease_seconds).values())


def look_at_residents(services: Services) -> dict[str, int]:
    """How many workers have each model in memory now; a model that none has is left out."""
    with services.database.read() as connection:
        return count_residents(connection, services.settings.lease_seconds)
