"""Changing a job that waits."""

from typing import Any

from sqlalchemy import Connection

from api.dependencies import Services
from api.schemas.job_edits import JobEditRequest
from api.use_cases.look_up import require_job
from common.db.edits import JobEdit
from common.db.edits import edit_job as write_edit
from common.db.tenants import Caller
from common.domain.snapshot import JobSnapshot
from common.requests.planning import choose_lane


def edit_job(services: Services, caller: Caller, job_id: str, request: JobEditRequest) -> JobSnapshot:
    """The job as it is after the change.

    Raises `NotFound`, `Conflict` when it is not queued (any more), `Denied` above the priority that the key may use.
    """
    lane = None if request.priority is None else choose_lane(request.priority, caller)
    wished: dict[str, Any] = {"tags": request.tags, "metadata": request.metadata}
    scale = 1.0 if lane is None else _scale(services, caller, job_id)
    edit = JobEdit(lane, {name: value for name, value in wished.items() if value is not None}, scale)

    def work(connection: Connection) -> JobSnapshot:
        require_job(connection, caller.tenant_id, job_id)
        write_edit(connection, caller.tenant_id, job_id, edit)
        return require_job(connection, caller.tenant_id, job_id)

    return services.database.transact(work)


def _scale(services: Services, caller: Caller, job_id: str) -> float:
    """Asked before the change begins: it may read the database, over a connection of its own."""
    with services.database.read() as connection:
        job = require_job(connection, caller.tenant_id, job_id)
    return services.paces.scale(job.pool, job.params.model)
