"""The step engine: continuous batching. One forward pass per tick over frames that share checkpoint and size.

Every frame is its own diffusers call, a coroutine that stops at each evaluation of the model (`coroutines`). A tick puts
the rows of all that wait into one pass and lets each call go on with its share: its own scheduler, guidance, mask and
noise, exactly as diffusers does them. A frame alone gives the plain call's bytes; frames join and leave between ticks.
"""

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from datetime import datetime
from time import perf_counter
from typing import Any

import structlog
import torch

from common.clock import utc_now
from common.domain.errors import JobFailure
from worker.engine.adapters import AdapterRack
from worker.engine.coroutines import Coroutine
from worker.engine.decoding import CHUNK_PIXELS, Decoder, Outcome
from worker.engine.departures import Departures
from worker.engine.diffusers_call import DiffusersCall, scaled
from worker.engine.measuring import Gauge, HostGauge
from worker.engine.port import Admission, DeviceLost, Emit, Failed, Finished, Left, Load, Prepared, Stepped
from worker.engine.previews import Previewer
from worker.engine.row_budget import RowBudget
from worker.engine.rows import Stack, joined, row_by_row, shares
from worker.engine.running import Running, count_pass
from worker.engine.seats import Seats
from worker.engine.stand_ins import DENOISERS, ENCODE, TextEncoder, shared_calls, stand_ins_for
from worker.failures import is_device_lost, is_out_of_memory
from worker.memory import release_memory, weight_bytes
from worker.pipelines.family import Family, Parts

_log = structlog.get_logger()

Group = Sequence[Running]


class StepEngine:
    """Runs frames of one loaded model; implements `worker.engine.port.Engine`.

    At most `budget.most_rows` rows are in it at a time; a frame with guidance has two.
    """

    def __init__(
        self,
        family: Family,
        parts: Parts,
        *,
        budget: RowBudget,
        gauge: Gauge | None = None,
        adapters: AdapterRack | None = None,
        now: Callable[[], datetime] = utc_now,
    ) -> None:
        self._parts = parts
        self._stand_ins = stand_ins_for(parts)
        self._plain = DiffusersCall(family, parts)
        self._call = DiffusersCall(family, self._stand_ins)
        self._decoder = Decoder(family, parts)
        self._shared = shared_calls(parts)
        self._adapters = adapters or AdapterRack()
        self._budget, self._gauge = budget, gauge or HostGauge()
        self._seats = Seats(budget, now)
        self._stacks: dict[Any, Stack] = {}
        self._previewer = Previewer(family.LATENT_RGB)
        self._departures = Departures()
        self._emit: Emit = _nowhere

    def offer(self, frame: Prepared) -> Admission:
        """Any frame while there is room for its rows and it has the adapters of those that are in."""
        return self._seats.offer(frame)

    def join(self, frame: Prepared) -> None:
        """Take the frame in and run its call to the first evaluation of a model. Raises what the call raises."""
        if not self._seats:
            self._hang(frame)
        coroutine = Coroutine(lambda: self._call.denoise([frame], one_stepped))
        one = Running(frame, coroutine, left=frame.steps, joined_at=perf_counter())

        def one_stepped(done: int, total: int, latents: torch.Tensor) -> None:
            self._stepped(one, done, total, latents)

        with torch.inference_mode():
            _guarded(coroutine.start)
        self._departures.arrive(frame)
        self._seats.take(one)

    def tick(self, emit: Emit) -> None:
        """One evaluation for every frame that is not parked; who is through is decoded and leaves.

        Raises `DeviceLost`; the frames that have not been reported then are lost with the process.
        """
        self._emit = emit
        self._dismiss()
        self._seats.wake()
        with torch.inference_mode():
            for group in self._groups((ENCODE,)):
                self._advance(group)
            for group in self._groups(DENOISERS):
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
        self._abandon(self._seats.all())
        self._parts, self._stand_ins, self._shared, self._stacks = {}, {}, {}, {}
        del self._plain, self._call, self._decoder

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

    def _groups(self, models: Sequence[str]) -> list[Group]:
        """The active frames that wait for these models, by what can share a pass, and no more than fit into one."""
        alike: dict[Any, list[Running]] = {}
        for one in self._seats.active():
            call = one.coroutine.waits_for
            if call is not None and call.model in models:
                alike.setdefault((call.shape, one.key, one.ref if one.is_alone else None), []).append(one)
        self._stacks = {name: self._stacks.get(name, Stack()) for name in alike}
        return [group for name, whole in alike.items() for group in self._portions(name, whole)]

    def _portions(self, name: Any, whole: list[Running]) -> list[Group]:
        params = whole[0].frame.params
        model = name[0][0]
        most = CHUNK_PIXELS // (params.width * params.height) if model == ENCODE else self._budget.fitting(name[1])
        portions: list[list[Running]] = [[]]
        for one in whole:
            if portions[-1] and sum(other.rows for other in portions[-1]) + one.rows > most:
                portions.append([])
            portions[-1].append(one)
        return portions

    def _advance(self, group: Group) -> None:
        """One evaluation for these, and each goes on with its share; a frame's own trouble is its own."""
        for one, answer in zip(group, self._answers(group), strict=True):
            try:
                if isinstance(answer, Exception):
                    raise answer
                _guarded(lambda one=one, answer=answer: one.coroutine.resume(answer))
            except DeviceLost:
                raise
            except Exception as error:  # the edge of one frame
                self._fail(one, error)

    def _answers(self, group: Group) -> list[Any]:
        """What the model answers each frame, or the error that remains when the frame is alone."""
        try:
            return self._pass(group)
        except Exception as error:  # the edge of one pass; nothing was written yet
            _log.warning("engine.pass_failed", frames=len(group), exc_info=error)
            failure = error.with_traceback(None)  # which would keep the pass's tensors alive
        if is_device_lost(failure):
            raise DeviceLost(str(failure)) from failure
        if is_out_of_memory(failure):
            release_memory()
            self._budget.lower(group[0].key, sum(one.rows for one in group) // 2)
            if len(group) == 1:
                return [self._answer_row_by_row(group[0])]
        if len(group) == 1:
            return [failure]
        half = (len(group) + 1) // 2
        return self._answers(group[:half]) + self._answers(group[half:])

    def _pass(self, group: Group) -> list[Any]:
        calls = [one.coroutine.waits_for for one in group]
        first = calls[0]
        stack = self._stacks.get((first.shape, group[0].key, None)) or Stack()
        args, kwargs = stack.of(calls)
        rows = [call.rows for call in calls]
        answer = self._gauge.run(
            lambda: self._shared[first.model](*args, **kwargs),
            lambda seconds, used: self._note(first.model, group[0].key, sum(rows), seconds, used),
        )
        if first.model in DENOISERS:
            count_pass(group)
        return shares(answer, rows)

    def _note(self, model: str, key: str, rows: int, seconds: float, used_bytes: int | None) -> None:
        if model == DENOISERS[0]:
            self._budget.note(key, rows, seconds, used_bytes)

    def _answer_row_by_row(self, one: Running) -> Any:
        """The last resort of a frame that does not even fit alone: its rows one after the other."""
        call = one.coroutine.waits_for
        try:
            return joined([self._shared[call.model](*row.args, **row.kwargs) for row in row_by_row(call)])
        except Exception as error:
            if not is_out_of_memory(error):
                return error
        release_memory()
        return JobFailure("the device has too little memory for this size, also for one image alone", code="out_of_memory")

    def _stepped(self, one: Running, done: int, total: int, latents: torch.Tensor) -> None:
        one.left = total - done
        self._emit(Stepped(one.ref, scaled(done, total, one.frame.steps), one.frame.steps))
        for preview in self._previewer.look([one.frame], latents):
            self._emit(preview)

    def _through(self) -> list[Group]:
        """The frames whose denoising is done, by what is decoded together; the deterministic each by itself."""
        alike: dict[Any, list[Running]] = {}
        for one in self._seats.active():
            if one.coroutine.waits_for is None:
                alike.setdefault((one.coroutine.result.shape, one.ref if one.is_alone else None), []).append(one)
        return list(alike.values())

    def _finish(self, group: Group, *, is_saving: bool = False) -> None:
        outcomes = self._decode(group, is_saving=is_saving)
        if isinstance(outcomes, list):
            for one, outcome in zip(group, outcomes, strict=True):
                self._end(one, outcome)
            return
        if is_device_lost(outcomes):
            raise DeviceLost(str(outcomes)) from outcomes
        is_memory = is_out_of_memory(outcomes)
        if is_memory:
            release_memory()
        if len(group) > 1:
            half = (len(group) + 1) // 2
            self._finish(group[:half])
            self._finish(group[half:])
        elif is_memory and not is_saving:
            self._finish(group, is_saving=True)
        elif is_memory:
            detail = "the device has too little memory for this size, also for one image alone"
            self._fail(group[0], JobFailure(detail, code="out_of_memory"))
        else:
            self._fail(group[0], outcomes)

    def _decode(self, group: Group, *, is_saving: bool) -> list[Outcome] | Exception:
        try:
            with self._decoder.saving_memory() if is_saving else nullcontext():
                return self._decoder.outcomes([one.frame for one in group], [one.coroutine.result for one in group])
        except Exception as error:  # the edge of one decoding; who fails for it is decided by the caller
            _log.warning("engine.decoding_failed", frames=len(group), exc_info=error)
            return error.with_traceback(None)

    def _end(self, one: Running, outcome: Outcome) -> None:
        """A finished frame is kept when parking came too late for it, and dropped when its job was cancelled."""
        if isinstance(outcome, JobFailure):
            self._fail(one, outcome)
            return
        self._seats.leave([one])
        if self._departures.is_cancelled(one.ref):
            self._emit(Left(one.ref, parked=False))
            return
        facts = one.facts() | {"warnings": self._plain.warnings(one.frame)}
        with torch.inference_mode(False):
            latents = None if outcome.latents is None else outcome.latents.clone()
        self._emit(Finished(one.ref, outcome.picture, facts, latents, one.frame.number))

    def _fail(self, one: Running, error: Exception) -> None:
        self._abandon([one])
        self._emit(Failed(one.ref, error))


def _guarded(run: Callable[[], None]) -> None:
    """Run a part of a frame's own call: what it raises is its own, unless the device is gone."""
    try:
        run()
    except Exception as error:
        if is_device_lost(error):
            raise DeviceLost(str(error)) from error
        raise


def _nowhere(_event: Any) -> None:
    """Nobody listens between ticks; nothing is told then."""
