"""The event stream of a batch.

An event's id is `<version>.<n>`: 0 is the status of that version, the others its reports of progress, numbered by each
stream for itself, and once the batch is over 1 is `done`. Nothing of the past is told.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from api.live.batches import BatchSighting, BatchWatch, WatchedBatch
from api.live.stream import LiveStream
from api.live.telling import Place, frame
from api.live.watched import Waiter
from common.batch_document import present_batch
from common.domain.batch import BatchOutlook, BatchSnapshot
from common.domain.errors import Invalid, Problem
from common.settings import Settings


def check_place(place: Place | None, batch: BatchSnapshot) -> None:
    """Raises `Invalid` for a place in a version that this batch has not come to, as when the id is another batch's."""
    if place is not None and place[0] > batch.version:
        detail = "this batch has no event with that id (yet)"
        raise Invalid([Problem("/header/last-event-id", "validation_error", detail)])


def has_all(place: Place | None, batch: BatchSnapshot) -> bool:
    """Whether a client that stopped there has been told everything, `done` included."""
    return place is not None and batch.state.is_terminal and place >= (batch.version, 1)


@dataclass(slots=True)
class BatchTelling:
    """One stream's telling of one batch: remembers what has been told. `base` is the address of the API."""

    base: str
    is_over: bool = False
    _place: Place | None = None
    _report: dict[str, Any] | None = None

    def tell(self, batch: BatchSnapshot, outlook: BatchOutlook) -> bytes:
        """What is new in a look, as text; empty when nothing is. The first is the status with the whole batch."""
        if self.is_over:
            return b""
        document = present_batch(batch, self.base, outlook)
        frames = []
        if self._place is None or self._place[0] < batch.version:
            frames.append(self._status(batch, document))
        report = present_report(document)
        if batch.state.is_terminal:
            self.is_over = True
            frames.append(frame("done", (batch.version, 1), document))
        elif report != self._report and self._place is not None:
            self._place = (batch.version, self._place[1] + 1)
            frames.append(frame("progress", self._place, report))
        self._report = report
        return b"".join(frames)

    def _status(self, batch: BatchSnapshot, document: dict[str, Any]) -> bytes:
        data: dict[str, Any] = {"id": batch.id, "status": batch.state, "version": batch.version}
        if self._place is None:
            data["batch"] = document
            self._report = present_report(document)
        self._place = (batch.version, 0)
        return frame("status", self._place, data)


def present_report(document: dict[str, Any]) -> dict[str, Any]:
    """How far a batch is: all of its document that may change within a version."""
    names = ("status", "version", "cancel_requested", "lines", "counts", "queue", "eta_seconds")
    return {name: document[name] for name in names}


class BatchStream(LiveStream):
    """The events of a batch, until it is over."""

    _watched: WatchedBatch

    def __init__(
        self,
        settings: Settings,
        watch: BatchWatch,
        sighting: BatchSighting,
        telling: BatchTelling,
        *,
        is_head: bool = False,
    ) -> None:
        super().__init__(settings, watch.room, {"batch_id": sighting.batch.id}, is_head=is_head)
        self._watch = watch
        self._sightings = [sighting]  # taken out when it is told: an idle stream holds no snapshot of its own
        self._seen_at = sighting.seen_at
        self._telling = telling

    @contextmanager
    def waiting(self) -> Iterator[Waiter]:
        """See the base class."""
        with self._watch.waiting(self._sightings[0]) as (self._watched, waiter):
            yield waiter

    async def news(self) -> bytes:
        """See the base class; first what was seen for this stream, from then on what the common looks find."""
        sighting = self._sightings.pop() if self._sightings else self._watched.sighting
        if sighting.seen_at < self._seen_at:
            return b""
        self._seen_at = sighting.seen_at
        return self._telling.tell(sighting.batch, sighting.outlook)

    def is_told(self) -> bool:
        """See the base class."""
        return self._telling.is_over

    def is_gone(self) -> bool:
        """See the base class."""
        return self._watched.is_gone
