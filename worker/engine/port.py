"""The engine port: one engine per loaded model, and a changing set of frames.

A frame is one image of one job. `prepare` may be called from any thread; `cancel` and `park` may be called from any
thread and take effect at the next boundary; everything else belongs to the device thread alone.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from PIL.Image import Image

from common.domain.job import ClaimedJob


@dataclass(frozen=True, slots=True)
class FrameRef:
    """Which image of which attempt: a job id, the fence of the claim, the index of the image."""

    job_id: str
    fence: int
    index: int


@dataclass(frozen=True, slots=True)
class Prepared:
    """A frame that is ready to join: inputs decoded, resized and validated on the CPU.

    `image` is RGB of exactly the size that runs, or None for txt2img. `call_key` says which frames may share one
    diffusers call; `steps` is the number of denoising steps that it will report.
    """

    ref: FrameRef
    job: ClaimedJob
    seed: int
    image: Image | None
    call_key: str
    steps: int


@dataclass(frozen=True, slots=True)
class Admission:
    """Whether a frame can join now, and the reason when it cannot."""

    ok: bool
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class Stepped:
    """A frame has done `step` of `steps`."""

    ref: FrameRef
    step: int
    steps: int


@dataclass(frozen=True, slots=True)
class Finished:
    """A frame is done: `pixels` is RGB uint8 as a Pillow image on the CPU; `facts` go into the job's metrics."""

    ref: FrameRef
    pixels: Image
    facts: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Failed:
    """A frame cannot be finished; `worker.failures` says what becomes of its job."""

    ref: FrameRef
    error: Exception


@dataclass(frozen=True, slots=True)
class Left:
    """A frame left unfinished, because its job was cancelled (`parked` False) or the engine was asked to park."""

    ref: FrameRef
    parked: bool


Event = Stepped | Finished | Failed | Left
Emit = Callable[[Event], None]


@dataclass(frozen=True, slots=True)
class Load:
    """How full an engine is: frames that joined, and the most that one call takes."""

    frames: int
    max_frames: int


class Engine(Protocol):
    """Denoises frames of one loaded model."""

    def prepare(self, job: ClaimedJob, inputs: Mapping[str, bytes]) -> Sequence[Prepared]:
        """The frames of a job from its inputs' PNG bytes by role. CPU only, any thread.

        Raises `JobFailure` when the job can never run on this model.
        """

    def offer(self, frame: Prepared) -> Admission:
        """Whether this frame can join now. A frame offered to an empty engine is always admitted."""

    def join(self, frame: Prepared) -> None:
        """Take the frame in; it runs from the next tick on."""

    def tick(self, emit: Emit) -> None:
        """Run one unit of work over what joined and report it; every frame ends in one Finished, Failed or Left.

        Raises only for what the process cannot survive (`DeviceLost`).
        """

    def cancel(self, job_id: str) -> None:
        """The job's frames leave at the next boundary. Any thread."""

    def park(self) -> None:
        """All frames leave, parked, at the next boundary. Any thread."""

    def load(self) -> Load:
        """How full the engine is."""

    def close(self) -> None:
        """Free the model; the engine is not used again."""


class DeviceLost(Exception):
    """The device is unusable until a new process starts (device-side assert, illegal access, ECC, …).

    `alone`: one job only was on the device; set by the executor.
    """

    alone = False
