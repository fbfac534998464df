"""Pausing, resuming and canceling a batch. The first of its jobs change at once, a courier sees to the others."""

from collections.abc import Callable

from sqlalchemy import Connection

from api.dependencies import Services
from api.use_cases.look_at_batches import no_such_batch, require_batch
from common.db import batch_wishes
from common.db.tenants import Caller
from common.domain.batch import BatchSnapshot
from common.ids import is_id


def pause_batch(services: Services, caller: Caller, batch_id: str) -> BatchSnapshot:
    """The batch, of which no job starts from now on; those on a device go on. Harmless to repeat.

    Raises `NotFound`, `Conflict` when it does not run.
    """
    return _change(services, caller, batch_id, batch_wishes.pause_batch)


def cancel_batch(services: Services, caller: Caller, batch_id: str) -> BatchSnapshot:
    """The batch as it is after the wish, `canceled` once none of its jobs can change. One that is over stays as it is.

    Raises `NotFound`.
    """
    return _change(services, caller, batch_id, batch_wishes.cancel_batch)


def resume_batch(services: Services, caller: Caller, batch_id: str) -> BatchSnapshot:
    """The batch, whose jobs wait again for a device, behind what waits already. Harmless to repeat.

    Raises `NotFound`, `Conflict` when it is neither paused nor runs.
    """
    pools: dict[str, int] = {}

    def resume(connection: Connection, tenant_id: str, batch_id: str) -> bool:
        released = batch_wishes.resume_batch(connection, tenant_id, batch_id, services.paces.scale)
        pools.clear()
        pools.update({} if released is None else released.pools)
        return released is not None

    batch = _change(services, caller, batch_id, resume)
    for pool, jobs in pools.items():
        services.doorbell.ring(pool, jobs)
    return batch


def _change(
    services: Services, caller: Caller, batch_id: str, change: Callable[[Connection, str, str], bool]
) -> BatchSnapshot:
    def work(connection: Connection) -> BatchSnapshot:
        if not is_id(batch_id, "bat") or not change(connection, caller.tenant_id, batch_id):
            raise no_such_batch()
        return require_batch(connection, caller.tenant_id, batch_id)

    batch = services.database.transact(work)
    services.doorbell.ring_courier()
    return batch
