"""What came of a batch, line by line: read in pages, with no more of a job than a line of results says."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

from sqlalchemy import Connection, Row, select

from common.db.tables import batch_items, images, job_requests, jobs
from common.db.types import now
from common.domain.job import StoredImage
from common.domain.lifecycle import JobState

_AT_ONCE: Final = 500
"""Jobs whose images are read with one statement."""


@dataclass(frozen=True, slots=True)
class ResultLine:
    """A line of a batch as it is now.

    `state` is that of its job; a wrong line has failed, one that the batch was canceled before is canceled, and neither
    has a job. `images` are those of a success until its results expire at `expires_at`. Image k is number
    `k % frames` of step `k // frames` of the chain where every step is kept, else of its last one, `last_step`.
    """

    line: int
    custom_id: str | None
    job_id: str | None
    state: JobState
    error: dict[str, Any] | None = None
    images: list[StoredImage] = field(default_factory=list)
    expires_at: datetime | None = None
    frames: int = 1
    keeps_all: bool = False
    last_step: int = 0

    def step_of(self, image: StoredImage) -> int:
        """The step of the chain that made this image."""
        return image.index // self.frames if self.keeps_all else self.last_step


def read_results(
    connection: Connection, tenant_id: str, batch_id: str, *, after_line: int, limit: int
) -> list[ResultLine]:
    """The items of the tenant's batch behind line `after_line` (-1: from the first), at most `limit`, in the order of
    the manifest. Lines that have not been inserted yet are not among them. Of an erased job its id and state are left.
    """
    rows = list(connection.execute(_lines(tenant_id, batch_id, after_line, limit)))
    done = [row.job_id for row in rows if row.state == JobState.SUCCEEDED and not row.is_over]
    found = _images(connection, done)
    return [_result(row, found.get(row.job_id, [])) for row in rows]


def line_of(connection: Connection, tenant_id: str, batch_id: str, custom_id: str) -> int | None:
    """The number of the item with this id, or None when the batch has no such item (yet)."""
    mine = (batch_items.c.batch_id == batch_id) & (batch_items.c.tenant_id == tenant_id)
    query = select(batch_items.c.line).where(mine, batch_items.c.custom_id == custom_id)
    return connection.execute(query).scalar_one_or_none()


def _lines(tenant_id: str, batch_id: str, after_line: int, limit: int) -> Any:
    """A page of items, found by its bounds (lines have no gaps), and what belongs to each: so no plan goes through
    more than the page, even of a planner that knows nothing of the batch yet.
    """
    mine = (batch_items.c.batch_id == batch_id) & (batch_items.c.tenant_id == tenant_id)
    lines = batch_items.c.line.between(after_line + 1, after_line + limit)
    page = select(batch_items).where(mine, lines).order_by(batch_items.c.line).limit(limit).subquery("page")
    return (
        select(
            page.c.line,
            page.c.custom_id,
            page.c.job_id,
            page.c.error.label("line_error"),
            jobs.c.state,
            jobs.c.error,
            jobs.c.expires_at,
            jobs.c.erased_at,
            jobs.c.frames,
            (jobs.c.erased_at.is_not(None) | (jobs.c.expires_at <= now())).label("is_over"),
            job_requests.c.params["keep"].as_string().label("keep"),
            job_requests.c.params["then"].label("then"),
        )
        .outerjoin(jobs, jobs.c.id == page.c.job_id)
        .outerjoin(job_requests, (job_requests.c.job_id == jobs.c.id) & (jobs.c.state == JobState.SUCCEEDED))
        .order_by(page.c.line)
    )


def _images(connection: Connection, job_ids: list[str]) -> dict[str, list[StoredImage]]:
    found: dict[str, list[StoredImage]] = {job_id: [] for job_id in job_ids}
    columns = [images.c[name] for name in StoredImage.__dataclass_fields__]
    for start in range(0, len(job_ids), _AT_ONCE):
        own = images.c.job_id.in_(job_ids[start : start + _AT_ONCE])
        for row in connection.execute(select(images.c.job_id, *columns).where(own)):
            found[row[0]].append(StoredImage(*row[1:]))
    for several in found.values():
        several.sort(key=lambda image: image.index)
    return found


def _result(row: Row[Any], made: list[StoredImage]) -> ResultLine:
    if row.state is None:
        state = JobState.CANCELED if row.line_error is None else JobState.FAILED
        return ResultLine(row.line, row.custom_id, row.job_id, state, row.line_error)
    if row.erased_at is not None:
        return ResultLine(row.line, row.custom_id, row.job_id, JobState(row.state))
    return ResultLine(
        line=row.line,
        custom_id=row.custom_id,
        job_id=row.job_id,
        state=JobState(row.state),
        error=row.error,
        images=made,
        expires_at=row.expires_at,
        frames=row.frames,
        keeps_all=row.keep == "all",
        last_step=_count_steps(row.then or ()) - 1,
    )


def _count_steps(then: Iterable[dict[str, Any]]) -> int:
    return 1 + sum(not one.get("refines", False) for one in then)
