"""What a stream tells, as the text of its events, and where in it a client stands. Pure.

An event's id is `<version>.<n>`: 0 is the status itself; while the job runs the others are the reports of progress, and
once it is over its results, then `done`. Ids grow along a stream and mean the same on every stream of the job.
"""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

from common.clock import to_rfc3339
from common.domain.errors import Invalid, Problem
from common.domain.lifecycle import JobState
from common.domain.outlook import Outlook
from common.domain.snapshot import JobSnapshot
from common.domain.watching import JobEvent
from common.job_document import job_url, present_image, present_job, present_progress, present_queue

PING: Final = b": ping\n\n"
GREETING: Final = b"retry: 1000\n\n"
ID_PATTERN: Final = r"([0-9]{1,15})\.([0-9]{1,15})"
_ID: Final = re.compile(ID_PATTERN)

Place = tuple[int, int]
_Progress = tuple[int, int, int | None, bool]


def parse_place(given: Sequence[str]) -> Place | None:
    """Where the values of `Last-Event-ID` say that a client stopped; raises `Invalid` unless it is one id, or none."""
    if not given:
        return None
    match = _ID.fullmatch(given[0])
    if len(given) > 1 or match is None:
        detail = "Last-Event-ID is the id of an event of this stream, such as 3.0, given once"
        raise Invalid([Problem("/header/last-event-id", "validation_error", detail)])
    return int(match[1]), int(match[2])


def check_place(place: Place | None, job: JobSnapshot) -> None:
    """Raises `Invalid` for a place in a version that this job has not come to, as when the id is another job's.

    Within the newest version every place will do: what is told of progress there is kept by nobody.
    """
    if place is not None and place[0] > job.version:
        detail = "this job has no event with that id (yet)"
        raise Invalid([Problem("/header/last-event-id", "validation_error", detail)])


def has_all(place: Place | None, job: JobSnapshot) -> bool:
    """Whether a client that stopped there has been told everything, `done` included."""
    return place is not None and job.state.is_terminal and place >= _last_place(job)


@dataclass(slots=True)
class Telling:
    """One stream's telling of one job: remembers what has been told. `base` is the address of the API.

    `place` is the id of the last event told, None before the first; a telling that begins there begins with the job as
    it is now.
    """

    base: str
    place: Place | None = None
    is_over: bool = False
    _progress: _Progress | None = None
    _preview: str | None = None
    _begins: bool = field(init=False)

    def __post_init__(self) -> None:
        self._begins = self.place is None
        if self.place is not None:
            self._progress = (*self.place, None, False)

    def wanted_after(self, job: JobSnapshot) -> int:
        """The version whose successors have to be told before anything else of this snapshot."""
        return job.version - 1 if self.place is None else self.place[0]

    def tell(self, job: JobSnapshot, events: Sequence[JobEvent], outlook: Outlook, now: datetime) -> bytes:
        """What is new in a look, as text; empty when nothing is.

        `events` are those after `wanted_after`, without gaps. If they end before the snapshot's version there is more
        to be told, and of the snapshot nothing yet.
        """
        frames = [self._status(event, job, outlook, now) for event in events]
        if self.place is None or self.place[0] < job.version:
            return b"".join(frames)
        if job.erased_at is not None:
            self.is_over = True
        elif job.state.is_terminal:
            frames += self._results(job, now)
            self.is_over = True
        elif self.place[0] == job.version:
            frames += self._reports(job, outlook, now)
        return b"".join(frames)

    def _status(self, event: JobEvent, job: JobSnapshot, outlook: Outlook, now: datetime) -> bytes:
        data: dict[str, Any] = {
            "id": event.job_id,
            "status": event.state,
            "version": event.version,
            "kind": event.kind,
            "attempt": event.attempt,
            "at": to_rfc3339(event.at),
            "error": event.error,
        }
        if self._begins:
            self._begins = False
            data["job"] = present_job(job, self.base, now, outlook)
            self._progress = _progress_of(job, outlook)
        self.place = (event.version, 0)
        return frame("status", self.place, data)

    def _results(self, job: JobSnapshot, now: datetime) -> list[bytes]:
        """What of the results and the end has not been told yet."""
        url = job_url(self.base, job.id)
        told: list[tuple[Place, str, Any]] = [
            ((job.version, image.index + 1), "output", present_image(job, image, url)) for image in job.images
        ]
        told.append((_last_place(job), "done", present_job(job, self.base, now)))
        assert self.place is not None
        frames = []
        for place, kind, data in told:
            if self.place < place:
                self.place = place
                frames.append(frame(kind, place, data))
        return frames

    def _reports(self, job: JobSnapshot, outlook: Outlook, now: datetime) -> list[bytes]:
        """The newest progress and preview, if they are not what was told last; never anything older."""
        place = (job.version, job.progress_seq)
        if self.place is None or place < self.place:
            return []
        self.place = place
        frames = []
        progress = _progress_of(job, outlook)
        if progress != self._progress:
            self._progress = progress
            frames.append(frame("progress", place, present_report(job, outlook, now)))
        if job.preview_tag not in {None, self._preview}:
            self._preview = job.preview_tag
            url = f"{job_url(self.base, job.id)}/preview"
            frames.append(frame("preview", place, {"url": url, "etag": job.preview_tag}))
        return frames


def present_report(job: JobSnapshot, outlook: Outlook, now: datetime) -> dict[str, Any]:
    """How far a job is that is not over: all that may change within a version."""
    return {
        "status": job.state,
        "version": job.version,
        "stage": job.progress.stage if job.progress else None,
        "progress": present_progress(job, now, outlook),
        "queue": present_queue(job, outlook),
    }


def frame(kind: str, place: Place, data: object) -> bytes:
    """One event as it goes over the wire."""
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":"))
    return f"event: {kind}\nid: {place[0]}.{place[1]}\ndata: {text}\n\n".encode()


def _last_place(job: JobSnapshot) -> Place:
    """That of `done`: behind all results that there were, also when they have expired."""
    results = job.params.result_count if job.state is JobState.SUCCEEDED else 0
    return job.version, max(results, len(job.images)) + 1


def _progress_of(job: JobSnapshot, outlook: Outlook) -> _Progress:
    """What progress is told anew for."""
    return job.version, job.progress_seq, outlook.position, outlook.is_lower_bound
