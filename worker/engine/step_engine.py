"""The step engine: continuous batching. One forward pass per tick over frames that share checkpoint and size.

Every frame is its own diffusers call, a coroutine that stops at each evaluation of the model (`coroutines`). A tick
puts the rows of all that wait into one pass and lets each call go on with its share: its own scheduler, guidance, mask
and noise, exactly as diffusers does them. A frame alone gives the plain call's bytes; frames come and go between ticks.
"""

from collections.abc import Callable, Mapping
from datetime import datetime
from time import perf_counter
from typing import Any

import structlog
import torch

from common.clock import utc_now
from worker.engine.adapters import AdapterRack
from worker.engine.coroutines import Coroutine
from worker.engine.decoding import Decoder, Made
from worker.engine.departures import Departures
from worker.engine.diffusers_call import DiffusersCall, scaled
from worker.engine.measuring import Gauge, HostGauge
from worker.engine.passes import FastRun, Group, Passes
from worker.engine.port import Admission, DeviceLost, Emit, Failed, Finished, Left, Load, Prepared, Stepped
from worker.engine.previews import Previewer
from worker.engine.row_budget import RowBudget
from worker.engine.running import Running
from worker.engine.seats import Seats
from worker.engine.stand_ins import DENOISERS, ENCODE, TextEncoder, denoisers_for, shared_calls, stand_ins_for
from worker.failures import is_device_lost
from worker.memory import weight_bytes
from worker.pipelines.family import Family, Parts

_log = structlog.get_logger()


class StepEngine:
    """Runs frames of one loaded model; implements `worker.engine.port.Engine`.

    At most `budget.most_rows` rows are in it at a time; a frame with guidance has two.
    """

    late_join = True

    def __init__(
        self,
        family: Family,
        parts: Parts,
        *,
        budget: RowBudget,
        gauge: Gauge | None = None,
        adapters: AdapterRack | None = None,
        fast: Mapping[str, FastRun] | None = None,
        is_disturbed: Callable[[], bool] = lambda: False,
        now: Callable[[], datetime] = utc_now,
    ) -> None:
        self._parts = parts
        self._stand_ins = stand_ins_for(parts)
        self._plain = DiffusersCall(family, parts)
        self._call = DiffusersCall(family, self._stand_ins, has_host_timesteps=True)
        # Kandinsky remembers what its prior has made, which in company is rounded otherwise.
        self._call_alone = DiffusersCall(family, self._stand_ins | denoisers_for(parts), has_host_timesteps=True)
        self._decoder = Decoder(family, parts)
        self._passes = Passes(
            shared_calls(parts), budget=budget, gauge=gauge or HostGauge(), fast=fast, is_disturbed=is_disturbed
        )
        self._fast = fast or {}
        self._adapters = adapters or AdapterRack()
        self._budget = budget
        self._seats = Seats(budget, now)
        self._latent_rgb = family.LATENT_RGB
        self._departures = Departures()
        self._emit: Emit = _nowhere

    def offer(self, frame: Prepared) -> Admission:
        """Any frame while there is room for its rows and it has the adapters of those that are in."""
        return self._seats.offer(frame)

    def join(self, frame: Prepared) -> None:
        """Take the frame in and run its call to the first evaluation of a model. Raises what the call raises."""
        if not self._seats:
            self._hang(frame)
        call = self._call_alone if frame.job.params.deterministic else self._call
        coroutine = Coroutine(lambda: call.denoise([frame], one_stepped))
        one = Running(frame, coroutine, left=frame.steps, joined_at=perf_counter())
        previewer = Previewer(self._latent_rgb)

        def one_stepped(done: int, total: int, latents: torch.Tensor) -> None:
            self._stepped(one, done, total)
            for preview in previewer.look([frame], latents):
                self._emit(preview)

        try:
            with torch.inference_mode():
                coroutine.start()
        except Exception as error:
            if is_device_lost(error):
                raise DeviceLost(str(error)) from error
            raise
        self._departures.arrive(frame)
        self._seats.take(one)

    def tick(self, emit: Emit) -> None:
        """One evaluation for every frame that is not parked; who is through is decoded and leaves.

        Raises `DeviceLost`; the frames that have not been reported then are lost with the process.
        """
        self._emit = emit
        with torch.inference_mode():
            self._dismiss()
            self._seats.wake()
            while encoding := self._passes.groups(self._seats.active(), (ENCODE,)):
                for group in encoding:  # inpainting encodes twice
                    self._advance(group)
            for group in self._passes.groups(self._seats.active(), DENOISERS):
                self._advance(group)
            for group in self._through():
                self._finish(group)
        self._departures.keep_only(one.frame for one in self._seats.all())
        self._emit = _nowhere

    def cancel(self, job_id: str) -> None:
        """The job's frames leave before their next evaluation."""
        self._departures.cancel(job_id)

    def park(self) -> None:
        """All frames leave before their next evaluation."""
        self._departures.park()

    def load(self) -> Load:
        """How many frames are in, parked ones included, and how many with guidance could be."""
        return Load(len(self._seats), max(1, self._budget.most_rows // 2))

    def weight_bytes(self) -> int:
        """Memory of the model's parts."""
        return weight_bytes(self._parts.values())

    def close(self) -> None:
        """Let go of the model's parts and of what is still running."""
        with torch.inference_mode():
            self._abandon(self._seats.all())
        for run in self._fast.values():
            run.close()
        self._parts, self._stand_ins, self._fast = {}, {}, {}
        del self._plain, self._call, self._call_alone, self._decoder, self._passes

    def _hang(self, frame: Prepared) -> None:
        if self._adapters.holds(frame.params.adapters):
            return
        for part in self._stand_ins.values():
            if isinstance(part, TextEncoder):
                part.forget()
        self._plain.hang(self._adapters, frame.params)

    def _dismiss(self) -> None:
        leaving = [(one, left) for one in self._seats.all() if (left := self._departures.of(one.ref)) is not None]
        self._abandon([one for one, _ in leaving])
        for _, left in leaving:
            self._emit(left)

    def _abandon(self, leaving: Group) -> None:
        for one in leaving:
            one.coroutine.abandon()
        self._seats.leave(leaving)

    def _advance(self, group: Group) -> None:
        """One evaluation for these, and each goes on with its share; a frame's own trouble is its own."""
        for one, answer in zip(group, self._passes.answers(group), strict=True):
            try:
                if isinstance(answer, Exception):
                    raise answer
                one.coroutine.resume(answer)
            except Exception as error:  # the edge of one frame
                if is_device_lost(error):
                    raise DeviceLost(str(error)) from error
                if error is not answer:
                    _log.warning("engine.frame_failed", job_id=one.ref.job_id, exc_info=error)
                self._fail(one, error)

    def _stepped(self, one: Running, done: int, total: int) -> None:
        one.left = total - done
        self._emit(Stepped(one.ref, scaled(done, total, one.frame.steps), one.frame.steps))

    def _through(self) -> list[Group]:
        """The frames whose denoising is done, by what is decoded together; the deterministic each by itself."""
        alike: dict[Any, list[Running]] = {}
        for one in self._seats.active():
            if one.coroutine.waits_for is None:
                alike.setdefault((one.coroutine.result.shape, one.ref if one.is_alone else None), []).append(one)
        return list(alike.values())

    def _finish(self, group: Group) -> None:
        frames, latents = [one.frame for one in group], [one.coroutine.result for one in group]
        for one, outcome in zip(group, self._decoder.outcomes_or_errors(frames, latents), strict=True):
            if isinstance(outcome, Exception):
                self._fail(one, outcome)
            else:
                self._end(one, outcome)

    def _end(self, one: Running, made: Made) -> None:
        """A finished frame is kept when parking came too late for it, and dropped when its job was cancelled."""
        self._seats.leave([one])
        if self._departures.is_cancelled(one.ref):
            self._emit(Left(one.ref, parked=False))
            return
        facts = one.facts() | {"warnings": self._plain.warnings(one.frame)}
        with torch.inference_mode(False):
            latents = None if made.latents is None else made.latents.clone()
        self._emit(Finished(one.ref, made.picture, facts, latents, one.frame.number))

    def _fail(self, one: Running, error: Exception) -> None:
        self._abandon([one])
        error.__context__ = error.__cause__ = None
        self._emit(Failed(one.ref, error.with_traceback(None)))  # which would keep all frames of its pass alive


def _nowhere(_event: Any) -> None:
    """Nobody listens between ticks; nothing is told then."""
