"""Finished passes of jobs that have several: written by the attempt that holds the job, read by the next."""

from sqlalchemy import Connection, select

from common.db.moves import holds
from common.db.tables import job_steps, jobs, object_refs, objects
from common.db.upsert import upsert
from common.domain.job import ClaimedJob, DoneStep
from common.domain.lifecycle import JobState


def record_step(connection: Connection, job: ClaimedJob, step: DoneStep, size: int) -> bool:
    """A pass is done and its output stored (`size` bytes), so no later attempt runs it again. False when not ours."""
    ours = holds(job.id, job.fence) & (jobs.c.state == JobState.RUNNING)
    if connection.execute(select(jobs.c.id).where(ours).with_for_update()).one_or_none() is None:
        return False
    own = {"job_id": job.id, "tenant_id": job.tenant_id}
    row = own | {"step": step.number, "fence": job.fence, "key": step.key, "sha256": step.sha256}
    statement = upsert(connection, job_steps).values(row)
    newer = {name: row[name] for name in ("fence", "key", "sha256")}
    connection.execute(
        statement.on_conflict_do_update(index_elements=[job_steps.c.job_id, job_steps.c.step], set_=newer)
    )
    thing = {"key": step.key, "tenant_id": job.tenant_id, "state": "live", "kind": "step"}
    lies = upsert(connection, objects).values(thing | {"sha256": step.sha256, "bytes": size})
    refers = upsert(connection, object_refs).values(own | {"object_key": step.key, "role": "step"})
    for statement in (lies, refers):  # a commit whose answer was lost is tried again
        connection.execute(statement.on_conflict_do_nothing())
    return True


def done_steps(connection: Connection, job_ids: list[str]) -> dict[str, tuple[DoneStep, ...]]:
    """The finished passes of these jobs, in order; a job without any is left out."""
    if not job_ids:
        return {}
    found: dict[str, tuple[DoneStep, ...]] = {}
    query = select(job_steps).where(job_steps.c.job_id.in_(job_ids)).order_by(job_steps.c.job_id, job_steps.c.step)
    for row in connection.execute(query):
        found[row.job_id] = (*found.get(row.job_id, ()), DoneStep(row.step, row.key, row.sha256))
    return found
