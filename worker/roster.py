"""What this process holds: the one place where the four threads of a worker meet. Every method is thread-safe."""

import threading
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from PIL.Image import Image

from common.domain.job import ClaimedJob, Progress, StoredImage
from worker.engine.port import Finished, FrameRef, Prepared


@dataclass(slots=True)
class HeldJob:
    """One claimed job and how far its frames are. Changed under the roster's lock only."""

    job: ClaimedJob
    open_frames: set[int] = field(default_factory=set)
    results: dict[int, StoredImage] = field(default_factory=dict)
    grid: StoredImage | None = None
    original: Image | None = None
    pictures: dict[int, Image] = field(default_factory=dict)
    handovers: dict[int, dict[int, Finished]] = field(default_factory=dict)
    warnings: list[dict[str, str]] = field(default_factory=list)
    preview: Image | None = None
    run_ms: dict[int, int] = field(default_factory=dict)
    steps_done: dict[int, int] = field(default_factory=dict)
    steps: int = 0
    stage: str = "preparing"
    failure: Exception | None = None
    is_prepared: bool = False
    is_parked: bool = False
    is_cancel_wished: bool = False
    is_late: bool = False
    is_lost: bool = False
    has_begun_to_join: bool = False
    has_joined: bool = False
    device_seconds: float = 0.0
    facts: dict[str, object] = field(default_factory=dict)

    @property
    def metrics(self) -> dict[str, object]:
        """What the engine told of it, and its share of the device's time."""
        return self.facts | {"device_ms": round(self.device_seconds * 1000)}

    @property
    def is_unwanted(self) -> bool:
        """True when further work on it is wasted."""
        return self.is_lost or self.is_cancel_wished or self.is_late or self.failure is not None


class Roster:
    """The jobs of this worker, and the frames that are ready for the device, in the order of their claims."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._jobs: dict[tuple[str, int], HeldJob] = {}
        self._ready: deque[Prepared] = deque()
        self._coming: set[FrameRef] = set()
        self.work = threading.Event()

    def add(self, job: ClaimedJob) -> bool:
        """Hold a claimed job. False if an older attempt of it is still here, which must leave first."""
        with self._lock:
            if any(job_id == job.id for job_id, _ in self._jobs):
                return False
            self._jobs[job.id, job.fence] = HeldJob(job)
            return True

    def get(self, ref: FrameRef) -> HeldJob | None:
        """The job of a frame, if it is still held."""
        with self._lock:
            return self._jobs.get((ref.job_id, ref.fence))

    def charge(self, refs: Iterable[FrameRef], seconds: float) -> None:
        """Each of these frames took so many seconds of the device."""
        with self._lock:
            for ref in refs:
                if held := self._jobs.get((ref.job_id, ref.fence)):
                    held.device_seconds += seconds

    def remove(self, job: ClaimedJob) -> None:
        """Let go of a job that is concluded."""
        with self._lock:
            self._jobs.pop((job.id, job.fence), None)

    def held(self) -> list[HeldJob]:
        """Every job held now."""
        with self._lock:
            return list(self._jobs.values())

    def is_empty(self) -> bool:
        """True when this process holds nothing."""
        with self._lock:
            return not self._jobs

    def has_solo(self) -> bool:
        """True when a job is held that must run by itself."""
        with self._lock:
            return any(held.job.solo for held in self._jobs.values())

    def make_ready(self, frames: Sequence[Prepared]) -> bool:
        """All frames of one job may join. False when nobody wants them any more."""
        with self._lock:
            held = self._jobs.get((frames[0].ref.job_id, frames[0].ref.fence))
            if held is None or held.is_unwanted:
                return False
            held.open_frames = {frame.ref.index for frame in frames}
            held.is_prepared = True
            held.steps = held.job.params.total_steps * len(frames)
            held.steps_done = {frame.ref.index: frame.steps_before for frame in frames}
            held.original = frames[0].original
            self._ready.extend(frames)
        self.work.set()
        return True

    def expect_next(self, ref: FrameRef) -> None:
        """The frame has run one pass and is being made ready for the next."""
        with self._lock:
            self._coming.add(ref)

    def make_next_ready(self, frame: Prepared) -> None:
        """An expected frame may join its next pass, before all others, in the order of its job's images."""
        with self._lock:
            if frame.ref not in self._coming:
                return
            self._coming.discard(frame.ref)
            place = 0
            while place < len(self._ready) and _precedes(self._ready[place].ref, frame.ref):
                place += 1
            self._ready.insert(place, frame)
        self.work.set()

    def forget_next(self, ref: FrameRef) -> bool:
        """A frame that was expected will not come. False if it was not expected, or is ready already."""
        with self._lock:
            was_coming = ref in self._coming
            self._coming.discard(ref)
        self.work.set()
        return was_coming

    def ready(self) -> list[Prepared]:
        """The frames that may join, in order."""
        with self._lock:
            return list(self._ready)

    def take_ready(self, frame: Prepared, *, to_join: bool = False) -> bool:
        """Take this frame if it may still join; a cancel may have been faster.

        `to_join`: the device takes it, and from now on the engine lets the frames of its job go, nobody else.
        """
        with self._lock:
            for place, other in enumerate(self._ready):
                if other is frame:
                    del self._ready[place]
                    if to_join and (held := self._jobs.get((frame.ref.job_id, frame.ref.fence))):
                        held.has_begun_to_join = True
                    return True
            return False

    def has_frames(self) -> bool:
        """True while a frame may join, now or when it is ready for its next pass."""
        with self._lock:
            return bool(self._ready or self._coming)

    def ready_count(self) -> int:
        """Frames that wait for the device."""
        with self._lock:
            return len(self._ready)

    def waiting_count(self) -> int:
        """Frames that wait for the device or are made ready for their next pass."""
        with self._lock:
            return len(self._ready) + len(self._coming)

    def take_unjoined(self, job_id: str | None = None) -> list[FrameRef]:
        """Take away every frame of a job (or of all) that has not begun to join, ready or still being prepared."""
        with self._lock:
            chosen = [
                held for held in self._jobs.values() if job_id in {None, held.job.id} and not held.has_begun_to_join
            ]
            names = {(held.job.id, held.job.fence) for held in chosen}
            self._ready = deque(frame for frame in self._ready if (frame.ref.job_id, frame.ref.fence) not in names)
            return [
                FrameRef(held.job.id, held.job.fence, index)
                for held in chosen
                for index in sorted(held.open_frames) or [0]
            ]

    def take_begun(self) -> list[FrameRef]:
        """Take away the frames that wait between two passes, on a device that is lost with all its jobs."""
        with self._lock:
            begun = [*(frame.ref for frame in self._ready if self._has_begun(frame)), *self._coming]
            self._ready = deque(frame for frame in self._ready if not self._has_begun(frame))
            self._coming.clear()
            return begun

    def _has_begun(self, frame: Prepared) -> bool:
        held = self._jobs.get((frame.ref.job_id, frame.ref.fence))
        return held is not None and held.has_begun_to_join

    def step(self, ref: FrameRef, step: int) -> None:
        """A frame has done `step` steps; never goes back."""
        with self._lock:
            if held := self._jobs.get((ref.job_id, ref.fence)):
                held.stage = "denoising"
                held.steps_done[ref.index] = max(step, held.steps_done.get(ref.index, 0))

    def preview(self, ref: FrameRef, picture: Image) -> None:
        """What a frame looks like so far."""
        with self._lock:
            if held := self._jobs.get((ref.job_id, ref.fence)):
                held.preview = picture

    def take_previews(self) -> list[tuple[ClaimedJob, Image]]:
        """The previews that nobody has taken yet."""
        with self._lock:
            taken = [(held.job, held.preview) for held in self._jobs.values() if held.preview is not None]
            for held in self._jobs.values():
                held.preview = None
            return taken

    def progress(self) -> list[tuple[ClaimedJob, Progress]]:
        """A snapshot of how far every job that joined is."""
        with self._lock:
            return [
                (held.job, Progress(held.stage, sum(held.steps_done.values()), held.steps))
                for held in self._jobs.values()
                if held.has_joined
            ]


def _precedes(one: FrameRef, other: FrameRef) -> bool:
    """Whether it is an earlier image of the same attempt."""
    return (one.job_id, one.fence) == (other.job_id, other.fence) and one.index < other.index
