"""Erasing a job."""

from api.dependencies import Services
from common.db.erasing import erase_job as write_erasure
from common.db.tenants import Caller
from common.domain.errors import NotFound
from common.ids import is_id


def erase_job(services: Services, caller: Caller, job_id: str) -> None:
    """Cancel the job if need be and erase what it was asked, given and made. Harmless to repeat.

    From the commit on every read of it answers `gone`; the cleaner then removes its objects. Raises `NotFound`.
    """
    is_known = is_id(job_id, "job") and services.database.transact(
        lambda connection: write_erasure(connection, caller.tenant_id, job_id)
    )
    if not is_known:
        raise NotFound("there is no such job")
