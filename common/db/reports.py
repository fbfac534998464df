"""How far running jobs are: volatile, in a narrow table of its own, and no loss when it is lost."""

from sqlalchemy import Connection, case, exists, null, text, update

from common.db.tables import job_progress, jobs
from common.db.types import now
from common.db.upsert import upsert
from common.domain.job import Progress


def report_preview(connection: Connection, job_id: str, fence: int, preview: bytes) -> None:
    """The newest preview (JPEG) of an attempt that has reported progress. May be lost; an erased job gets none."""
    if connection.dialect.name == "postgresql":
        connection.execute(text("SET LOCAL synchronous_commit = off"))
    mine = (job_progress.c.job_id == job_id) & (job_progress.c.fence == fence)
    is_kept = exists().where(jobs.c.id == job_id, jobs.c.erased_at.is_(None))
    connection.execute(
        update(job_progress).where(mine, is_kept).values(preview=preview, preview_seq=job_progress.c.preview_seq + 1)
    )


def report_progress(connection: Connection, tenant_id: str, job_id: str, fence: int, seq: int, at: Progress) -> None:
    """The newest progress of an attempt; an older attempt's report changes nothing. May be lost."""
    if connection.dialect.name == "postgresql":
        connection.execute(text("SET LOCAL synchronous_commit = off"))
    row = {"job_id": job_id, "tenant_id": tenant_id, "fence": fence, "seq": seq, "updated_at": now()}
    row |= {"stage": at.stage, "step": at.step, "steps": at.steps}
    is_same = job_progress.c.fence == fence
    preview = {
        "preview": case((is_same, job_progress.c.preview), else_=null()),
        "preview_seq": case((is_same, job_progress.c.preview_seq), else_=0),
    }
    statement = upsert(connection, job_progress).values(row)
    connection.execute(
        statement.on_conflict_do_update(
            index_elements=[job_progress.c.job_id],
            set_={name: value for name, value in row.items() if name not in {"job_id", "tenant_id"}} | preview,
            where=job_progress.c.fence <= fence,
        )
    )
