"""The engine port: one engine per loaded model, and a changing set of frames.

A frame is one image of one job in one of its passes. `cancel` and `park` may be called from any thread and take effect
at the next boundary; everything else belongs to the device thread alone.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol

from PIL.Image import Image

from common.domain.job import ClaimedJob
from common.domain.params import PassParams
from worker.pictures.canvas import Canvas

if TYPE_CHECKING:
    import torch

HandsOn = Literal["pixels", "latents"]


@dataclass(frozen=True, slots=True)
class FrameRef:
    """Which image of which attempt: a job id, the fence of the claim, the index of the image."""

    job_id: str
    fence: int
    index: int


@dataclass(frozen=True, slots=True)
class Prepared:
    """A frame that is ready to join pass `number` of its job: inputs decoded, resized and validated on the CPU.

    `image` is RGB and `mask` L of exactly the size that runs, white where it repaints; `latents` (4, height / 8,
    width / 8) take the place of an image; txt2img has none of them. `canvas` puts what was made of a masked picture
    back into it. `call_key` says which frames may share one diffusers call. `handovers` says
    what each pass of the job hands to the next; `original` is the job's prepared input, for the grid.
    """

    ref: FrameRef
    job: ClaimedJob
    number: int
    params: PassParams
    seed: int
    image: Image | None
    mask: Image | None
    latents: "torch.Tensor | None"
    canvas: Canvas | None
    call_key: str
    handovers: tuple[HandsOn, ...] = ()
    original: Image | None = None

    @property
    def steps(self) -> int:
        """The denoising steps that this pass reports."""
        return self.params.effective_steps

    @property
    def steps_before(self) -> int:
        """The denoising steps of the passes before."""
        return sum(one.effective_steps for one in self.job.params.passes[: self.number])

    @property
    def hands_on(self) -> HandsOn | None:
        """What the next pass takes; None after the last."""
        return self.handovers[self.number] if self.number < len(self.handovers) else None

    @property
    def needs_pixels(self) -> bool:
        """Whether latents are to be decoded: not when they are all that anybody wants."""
        return self.hands_on != "latents" or self.number in self.job.params.kept_passes


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
    """A frame has run pass `number`: `pixels` is RGB uint8 as a Pillow image; `facts` go into the job's metrics.

    `latents`, on the CPU, are what the next pass takes if it takes latents; `pixels` is None where nobody wants it.
    `is_stored`: an earlier attempt ran it, and what it handed on lies in the store.
    """

    ref: FrameRef
    pixels: Image | None
    facts: Mapping[str, Any]
    latents: "torch.Tensor | None" = None
    number: int = 0
    is_stored: bool = False


@dataclass(frozen=True, slots=True)
class Previewed:
    """What a frame looks like so far: a small RGB picture made of its latents."""

    ref: FrameRef
    picture: Image


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


Event = Stepped | Previewed | Finished | Failed | Left
Emit = Callable[[Event], None]


@dataclass(frozen=True, slots=True)
class Load:
    """How full an engine is: frames that joined, and the most that one call takes."""

    frames: int
    max_frames: int


class Engine(Protocol):
    """Denoises frames of one loaded model. `late_join`: frames can join while others run; joining takes time then."""

    late_join: bool

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

    def weight_bytes(self) -> int:
        """Memory that the loaded weights take."""

    def close(self) -> None:
        """Free the model; the engine is not used again."""


class DeviceLost(Exception):
    """The device is unusable until a new process starts (device-side assert, illegal access, ECC, …).

    `alone`: one job only was on the device; set by the executor.
    """

    alone = False
