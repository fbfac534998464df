"""The stub engine: timed steps and a picture made of its inputs' hash. For tests of the queue; loads no torch."""

import hashlib
import os
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import replace

from PIL import Image

from common.domain.batching import step_key
from worker.engine.departures import Departures
from worker.engine.frames import strangers
from worker.engine.port import Admission, Emit, Finished, FrameRef, Load, Prepared, Stepped

NAME = "stub"
DEADLY_PROMPT = "SIGSEGV"
_TILE = 8
_DEADLY_STEP = 2


class StubEngine:
    """Implements `worker.engine.port.Engine`: one tick is one step of every frame, and frames come and go between.

    The picture depends on the input's pixels, the prompt and the seed alone, so that a doubled or a wrong result
    shows. A step lasts `step_seconds`, however many frames share it. A job whose prompt is `DEADLY_PROMPT` crashes the
    process at its second step.
    """

    late_join = True

    def __init__(
        self, *, step_seconds: float = 0.0, max_frames: int = 8, sleep: Callable[[float], None] = time.sleep
    ) -> None:
        self._step_seconds = step_seconds
        self._max_frames = max_frames
        self._sleep = sleep
        self._joined: list[Prepared] = []
        self._done: dict[FrameRef, int] = {}
        self._departures = Departures()

    def offer(self, frame: Prepared) -> Admission:
        """Frames share a step when model and size are equal and neither is deterministic."""
        if not self._joined:
            return Admission(True)
        if _company(frame) != _company(self._joined[0]):
            return Admission(False, "other parameters")
        if len(self._joined) >= self._max_frames:
            return Admission(False, "full")
        return Admission(True)

    def join(self, frame: Prepared) -> None:
        """The frame takes part from the next tick on."""
        self._departures.arrive(frame)
        self._joined.append(frame)
        self._done[frame.ref] = 0

    def tick(self, emit: Emit) -> None:
        """One step of every frame; those that are done, or are to leave, go."""
        frames = self._joined
        staying = self._dismiss(frames, emit)
        if staying:
            self._sleep(self._step_seconds)
        self._joined = [frame for frame in staying if not self._step(frame, emit)]
        self._departures.keep_only(self._joined)

    def cancel(self, job_id: str) -> None:
        """The job's frames leave before their next step."""
        self._departures.cancel(job_id)

    def park(self) -> None:
        """All frames leave before their next step."""
        self._departures.park()

    def load(self) -> Load:
        """How many frames are running."""
        return Load(len(self._joined), self._max_frames)

    def weight_bytes(self) -> int:
        """None worth counting."""
        return 1

    def close(self) -> None:
        """There is nothing to free."""
        self._joined = []

    def _dismiss(self, frames: Sequence[Prepared], emit: Emit) -> list[Prepared]:
        staying = []
        for frame in frames:
            left = self._departures.of(frame.ref)
            if left is None:
                staying.append(frame)
            else:
                del self._done[frame.ref]
                emit(left)
        return staying

    def _step(self, frame: Prepared, emit: Emit) -> bool:
        """One step of one frame; True when it was the last."""
        self._done[frame.ref] += 1
        emit(Stepped(frame.ref, self._done[frame.ref], frame.steps))
        if frame.params.prompt == DEADLY_PROMPT and self._done[frame.ref] == _DEADLY_STEP:
            os.kill(os.getpid(), signal.SIGSEGV)
        if self._done[frame.ref] < frame.steps:
            return False
        del self._done[frame.ref]
        facts = {"engine": NAME, "frames": len(self._joined), "batched_with": strangers(frame, self._joined)}
        run_ms = round(frame.steps * self._step_seconds * 1000)
        emit(Finished(frame.ref, picture_of(frame), facts | {"run_ms": run_ms}, number=frame.number))
        return True


def picture_of(frame: Prepared) -> Image.Image:
    """The picture that the stub makes of a frame: a tile of noise, stretched to the size that was asked for."""
    params = frame.params
    pixels = b"" if frame.image is None else frame.image.tobytes()
    return picture_from(pixels, params.prompt, frame.seed, (params.width, params.height))


def picture_from(pixels: bytes, prompt: str, seed: int, size: tuple[int, int]) -> Image.Image:
    """The picture of these inputs: `pixels` of the prepared input, RGB, or nothing; `size` is width and height."""
    digest = hashlib.sha256(pixels + prompt.encode() + str(seed).encode()).digest()
    tile = hashlib.shake_256(digest).digest(_TILE * _TILE * 3)
    small = Image.frombytes("RGB", (_TILE, _TILE), tile)
    return small.resize(size, Image.Resampling.NEAREST)


def _company(frame: Prepared) -> str:
    alone = replace(frame.ref, index=0) if frame.job.params.deterministic else ""
    return f"{step_key(frame.params)} {alone}"
