"""The pipeline engine: one tick is one diffusers call over what joined. Every family runs on it; it is the oracle."""

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from time import perf_counter
from typing import TYPE_CHECKING

import structlog

from common.domain.batching import step_key
from common.domain.errors import JobFailure
from worker.engine.adapters import AdapterRack
from worker.engine.decoding import Decoder, Outcome
from worker.engine.departures import Departures
from worker.engine.diffusers_call import DiffusersCall, scaled
from worker.engine.frames import strangers
from worker.engine.port import (
    Admission,
    DeviceLost,
    Emit,
    Event,
    Failed,
    Finished,
    Left,
    Load,
    Prepared,
    Stepped,
)
from worker.engine.previews import Previewer
from worker.failures import is_device_lost, is_out_of_memory
from worker.memory import release_memory, weight_bytes
from worker.pipelines.family import Family, Parts

if TYPE_CHECKING:
    import torch

    from worker.engine.offloading import Stage

NAME = "pipeline"

_log = structlog.get_logger()


class PipelineEngine:
    """Runs frames of one loaded model, up to `max_frames` in one call; implements `worker.engine.port.Engine`."""

    late_join = False

    def __init__(
        self,
        family: Family,
        parts: Parts,
        *,
        max_frames: int,
        adapters: AdapterRack | None = None,
        stage: "Stage | None" = None,
    ) -> None:
        self._call: DiffusersCall | None = DiffusersCall(family, parts)
        self._adapters = adapters or AdapterRack()
        self._stage = stage
        self._previewer = Previewer(family.LATENT_RGB)
        self._max_frames = max_frames
        self._limits: dict[str, int] = {}
        self._joined: list[Prepared] = []
        self._departures = Departures()

    def offer(self, frame: Prepared) -> Admission:
        """An empty engine takes any frame; then only those that can share its call, as many as fit."""
        if not self._joined:
            return Admission(True)
        if frame.call_key != self._joined[0].call_key or self._shape(frame) != self._shape(self._joined[0]):
            return Admission(False, "other parameters")
        if len(self._joined) >= self._limits.get(step_key(frame.params), self._max_frames):
            return Admission(False, "full")
        return Admission(True)

    def join(self, frame: Prepared) -> None:
        """Take the frame into the next call."""
        self._departures.arrive(frame)
        self._joined.append(frame)

    def tick(self, emit: Emit) -> None:
        """Run all that joined to its end. Frames of a deterministic job run one per call, one after the other.

        Raises `DeviceLost`; the frames that have not been reported then are lost with the process.
        """
        frames, self._joined = self._joined, []
        for group in _calls(frames):
            self._run(group, emit)
        self._departures.keep_only([])

    def cancel(self, job_id: str) -> None:
        """The job's frames leave at the next step, or, in company, when the call is done."""
        self._departures.cancel(job_id)

    def park(self) -> None:
        """The call ends at its next step, and its frames leave."""
        self._departures.park()

    def load(self) -> Load:
        """How many frames wait for the next call."""
        return Load(len(self._joined), self._max_frames)

    def weight_bytes(self) -> int:
        """Memory of the model's parts on the device: of the largest, where they come there one at a time."""
        parts = self._loaded().parts
        if self._stage is None:
            return weight_bytes(parts.values())
        from worker.engine.offloading import largest_bytes

        return largest_bytes(parts)

    def close(self) -> None:
        """Let go of the model's parts."""
        self._call = None

    def _shape(self, frame: Prepared) -> str:
        return self._loaded().shape_key(frame)

    def _loaded(self) -> DiffusersCall:
        if self._call is None:
            raise RuntimeError("the engine is closed")
        return self._call

    def _run(self, frames: Sequence[Prepared], emit: Emit, *, is_saving: bool = False) -> None:
        staying = self._dismiss(frames, emit)
        if not staying:
            return
        started = perf_counter()
        outcome = self._attempt(staying, emit, is_saving=is_saving)
        if isinstance(outcome, Exception):
            self._recover(staying, outcome, emit, is_saving=is_saving)
            return
        facts = {"engine": NAME, "frames": len(staying), "run_ms": round((perf_counter() - started) * 1000)}
        for frame, one in zip(staying, outcome, strict=True):
            own = {"batched_with": strangers(frame, staying), "warnings": self._loaded().warnings(frame)}
            emit(self._ending(frame, one, facts | own))

    def _dismiss(self, frames: Sequence[Prepared], emit: Emit) -> list[Prepared]:
        leaving = {frame.ref: self._departures.of(frame.ref) for frame in frames}
        for left in filter(None, leaving.values()):
            emit(left)
        return [frame for frame in frames if leaving[frame.ref] is None]

    def _attempt(self, frames: Sequence[Prepared], emit: Emit, *, is_saving: bool) -> list[Outcome] | Exception:
        """The outcomes, or the error: logged, and without its traceback, which would keep the call's tensors alive."""
        import torch

        call, decoder = self._loaded(), Decoder(self._loaded().family, self._loaded().parts)
        try:
            with decoder.saving_memory() if is_saving else nullcontext():
                call.hang(self._adapters, frames[0].params)
                latents = call.denoise(frames, self._on_step(frames, emit))
                return decoder.outcomes(frames, torch.split(latents, 1))
        except _AllLeft as error:
            return error
        except Exception as error:  # the edge of one call; what becomes of its frames is decided in `_recover`
            _log.warning("engine.call_failed", frames=len(frames), is_saving=is_saving, exc_info=error)
            return _without_traceback(error)
        finally:
            if self._stage is not None:
                self._stage.clear()

    def _on_step(self, frames: Sequence[Prepared], emit: Emit) -> "_Stepper":
        return _Stepper(frames, emit, self._departures, self._previewer)

    def _recover(self, frames: Sequence[Prepared], error: Exception, emit: Emit, *, is_saving: bool) -> None:
        if is_device_lost(error):
            raise DeviceLost(str(error)) from error
        if is_out_of_memory(error):
            self._recover_memory(frames, emit, is_saving=is_saving)
        elif isinstance(error, _AllLeft):
            self._dismiss(frames, emit)
        elif len(frames) == 1:
            emit(Failed(frames[0].ref, error))
        else:
            self._run_parts(frames, 1, emit)

    def _recover_memory(self, frames: Sequence[Prepared], emit: Emit, *, is_saving: bool) -> None:
        """Half of the frames at a time, now and in later calls of this size; one with the saving decoder; no more."""
        release_memory()
        if len(frames) > 1:
            half = (len(frames) + 1) // 2
            self._limits[step_key(frames[0].params)] = half
            self._run_parts(frames, half, emit)
        elif not is_saving:
            self._run(frames, emit, is_saving=True)
        else:
            detail = "the device has too little memory for this size, also for one image alone"
            emit(Failed(frames[0].ref, JobFailure(detail, code="out_of_memory")))

    def _run_parts(self, frames: Sequence[Prepared], size: int, emit: Emit) -> None:
        for start in range(0, len(frames), size):
            self._run(frames[start : start + size], emit)

    def _ending(self, frame: Prepared, outcome: Outcome, facts: Mapping[str, object]) -> Event:
        """A finished frame is kept when parking came too late for it, and dropped when its job was cancelled."""
        if self._departures.is_cancelled(frame.ref):
            return Left(frame.ref, parked=False)
        if isinstance(outcome, JobFailure):
            return Failed(frame.ref, outcome)
        return Finished(frame.ref, outcome.picture, facts, outcome.latents, frame.number)


class _AllLeft(Exception):
    """Nobody is left to run for; raised inside the diffusers call to end it."""


class _Stepper:
    """Reports each step for each frame, and ends the call once everyone wants to leave."""

    def __init__(self, frames: Sequence[Prepared], emit: Emit, departures: Departures, previewer: Previewer) -> None:
        self._frames, self._emit, self._departures, self._previewer = frames, emit, departures, previewer

    def __call__(self, done: int, total: int, latents: "torch.Tensor") -> None:
        for frame in self._frames:
            self._emit(Stepped(frame.ref, scaled(done, total, frame.steps), frame.steps))
        for preview in self._previewer.look(self._frames, latents):
            self._emit(preview)
        if done < total and self._departures.are_all(self._frames):
            raise _AllLeft


def _calls(frames: Sequence[Prepared]) -> list[Sequence[Prepared]]:
    if frames and frames[0].job.params.deterministic:
        return [[frame] for frame in frames]
    return [frames] if frames else []


def _without_traceback(error: Exception) -> Exception:
    error.__context__ = error.__cause__ = None
    return error.with_traceback(None)
