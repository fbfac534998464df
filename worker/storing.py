"""Behind the device: pictures are completed, encoded and stored on a few threads, and made ready for a next pass."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any

import structlog
from PIL.Image import Image

from common.domain.job import DoneStep, StoredImage
from worker.engine.frames import complete, next_frame
from worker.engine.port import Finished, FrameRef, Prepared
from worker.handover import Handover
from worker.results import ResultWriter
from worker.roster import HeldJob, Roster

_COMPLETING_THREADS = 2


@dataclass(frozen=True, slots=True)
class Developed:
    """A frame has run a pass, and this is what the engine made of it."""

    frame: Prepared
    made: Finished

    @property
    def ref(self) -> FrameRef:
        """Which frame."""
        return self.made.ref


@dataclass(frozen=True, slots=True)
class Stored:
    """What became of a pass of a frame: the stored parts that it has, or the error that its job fails with.

    `goes_on`: the frame has another pass before it. `step` is what the pass handed on, with its size in bytes, and
    comes with the last frame of the pass.
    """

    made: Finished
    goes_on: bool = False
    image: StoredImage | None = None
    grid: StoredImage | None = None
    step: tuple[DoneStep, int] | None = None
    facts: dict[str, Any] = field(default_factory=dict)
    error: Exception | None = None

    @property
    def ref(self) -> FrameRef:
        """Which frame."""
        return self.made.ref


class Storer:
    """Stores what the device makes, `threads` pictures at once; `done` is told of each, on one of those threads.

    Frames are made ready for their next pass on threads of their own, so that a slow store does not keep the device
    from a chain.
    """

    def __init__(self, *, results: ResultWriter, roster: Roster, threads: int, done: Callable[[Stored], None]) -> None:
        self._results = results
        self._roster = roster
        self._done = done
        self._completing = ThreadPoolExecutor(_COMPLETING_THREADS, "complete")
        self._storing = ThreadPoolExecutor(threads, "store")
        self._lock = threading.Lock()

    def put(self, event: Developed | Finished) -> None:
        """Store this soon. A `Finished` without its frame is complete already and goes nowhere from here."""
        if isinstance(event, Developed):
            self._completing.submit(self._edge, event.made, lambda held: self._complete(event))
        else:
            self._storing.submit(self._edge, event, lambda held: self._done(self._store(held, event)))

    def close(self) -> None:
        """Take nothing more; what was put is still stored."""
        self._completing.shutdown(wait=True)
        self._storing.shutdown(wait=False)

    def give_up(self) -> None:
        """Begin nothing more, put or not."""
        for pool in (self._completing, self._storing):
            pool.shutdown(wait=False, cancel_futures=True)

    def _edge(self, made: Finished, work: Callable[[HeldJob], None]) -> None:
        """Do `work` for a job that is still wanted; what it raises fails this job and no other."""
        held, ref = self._roster.get(made.ref), made.ref
        if held is None or held.is_unwanted:
            self._done(Stored(made, goes_on=self._goes_on(held, made)))
            return
        with structlog.contextvars.bound_contextvars(job_id=ref.job_id, fence=ref.fence):
            try:
                work(held)
            except Exception as error:  # the edge of one picture
                self._done(Stored(made, goes_on=self._goes_on(held, made), error=error))

    def _complete(self, event: Developed) -> None:
        """The picture in its place; and the frame ready for its next pass, if that takes pictures."""
        frame, made = event.frame, event.made
        if made.pixels is not None:
            made = replace(made, pixels=complete(frame, made.pixels))
        if frame.hands_on == "pixels":
            self._roster.make_next_ready(next_frame(frame, made))
        self._storing.submit(self._edge, made, lambda held: self._done(self._store(held, made)))

    def _goes_on(self, held: HeldJob | None, made: Finished) -> bool:
        """Whether the frame is on its way to another pass, or in one, although this one comes to nothing."""
        if made.is_stored:
            return True
        was_coming = self._roster.forget_next(made.ref)
        return held is not None and made.number < len(held.job.params.then) and not was_coming

    def _store(self, held: HeldJob, made: Finished) -> Stored:
        params = held.job.params
        stored = Stored(made, goes_on=made.number < len(params.then))
        if made.number in params.kept_passes and made.pixels is not None:
            stored = self._store_picture(held, stored, made.pixels)
        if stored.goes_on and not made.is_stored:
            stored = replace(stored, step=self._store_step(held, made))
        return stored

    def _store_picture(self, held: HeldJob, stored: Stored, picture: Image) -> Stored:
        params, ref = held.job.params, stored.ref
        if stored.made.number == len(params.then):
            held.stage = "storing"
        image, facts = self._results.write(held.job, stored.made.number, ref.index, picture)
        stored = replace(stored, image=image, facts=facts)
        if not params.output.grid:
            return stored
        with self._lock:
            held.pictures[image.index] = picture
            pictures = [held.pictures[number] for number in sorted(held.pictures)]
        if len(pictures) < params.result_count:
            return stored
        return replace(stored, grid=self._results.write_grid(held.job, held.original, pictures))

    def _store_step(self, held: HeldJob, made: Finished) -> tuple[DoneStep, int] | None:
        """When all images of a pass are there, what it handed on, so that it need not run again."""
        with self._lock:
            rows = held.handovers.setdefault(made.number, {})
            rows[made.ref.index] = made
            if len(rows) < held.job.params.num_images:
                return None
            del held.handovers[made.number]
        return self._results.write_step(held.job, made.number, _handover_of([rows[index] for index in sorted(rows)]))


def _handover_of(made: list[Finished]) -> Handover:
    """What a pass made of all images, as far as somebody wants it: latents handed on, pictures handed on or kept."""
    pictures = tuple(one.pixels for one in made if one.pixels is not None)
    latents = tuple(one.latents for one in made if one.latents is not None)
    return Handover(pictures or None, latents or None)
