"""Canceling a job."""

from sqlalchemy import Connection

from api.dependencies import Services
from api.use_cases.look_up import require_job
from common.db.jobs import cancel_job as write_wish
from common.db.tenants import Caller
from common.domain.snapshot import JobSnapshot
from common.ids import is_id


def cancel_job(services: Services, caller: Caller, job_id: str) -> JobSnapshot:
    """The job as it is after the wish: canceled at once if no device had started it. Harmless to repeat.

    Raises `NotFound`.
    """

    def work(connection: Connection) -> JobSnapshot:
        if is_id(job_id, "job"):
            write_wish(connection, caller.tenant_id, job_id)
        return require_job(connection, caller.tenant_id, job_id)

    job = services.database.transact(work)
    services.doorbell.ring_courier()  # webhooks want to know
    return job
