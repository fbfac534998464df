"""The device thread: admit what is ready, tick, report. No database, no network, no encoder."""

import threading
import time
from collections.abc import Callable
from dataclasses import replace

import structlog

from common.domain.catalogue import Catalogue, ModelCard
from common.domain.errors import JobFailure
from worker.engine.frames import complete, next_frame
from worker.engine.port import (
    DeviceLost,
    Engine,
    Event,
    Failed,
    Finished,
    FrameRef,
    Left,
    Prepared,
    Previewed,
    Stepped,
)
from worker.failures import is_device_lost
from worker.pace import Pace
from worker.residency import Residency
from worker.roster import Roster
from worker.sink import Joined, Sink
from worker.watchdog import Watchdog

_IDLE_SECONDS = 0.5

_log = structlog.get_logger()


class Executor:
    """Runs one engine at a time over the frames of the roster."""

    def __init__(
        self,
        *,
        catalogue: Catalogue,
        residency: Residency,
        roster: Roster,
        pace: Pace,
        sink: Sink,
        watchdog: Watchdog,
        wake_claimer: Callable[[], None],
    ) -> None:
        self._catalogue = catalogue
        self._residency = residency
        self._roster = roster
        self._pace = pace
        self._sink = sink
        self._watchdog = watchdog
        self._wake_claimer = wake_claimer
        self._joined: list[Prepared] = []
        self._new: list[FrameRef] = []
        self._done: dict[FrameRef, int] = {}
        self._engine: Engine | None = None
        self._stop = threading.Event()
        self._park = threading.Event()

    def run(self) -> None:
        """Tick until stopped and empty. Raises `DeviceLost` when only a new process helps."""
        while not (self._stop.is_set() and not self._joined and self._roster.peek_ready() is None):
            if self._admit():
                self._tick()
                self._wake_claimer()
            else:
                self._roster.work.wait(_IDLE_SECONDS)
                self._roster.work.clear()

    def stop(self) -> None:
        """End when what has joined is done."""
        self._stop.set()
        self._roster.work.set()

    def park(self) -> None:
        """What runs leaves at the next step. Any thread."""
        self._park.set()
        if engine := self._engine:
            engine.park()

    def cancel(self, job_id: str) -> None:
        """The job's frames leave at the next step. Any thread."""
        if engine := self._engine:
            engine.cancel(job_id)

    def _admit(self) -> int:
        """Join ready frames as long as the engine takes them. Returns how many frames are in."""
        while (frame := self._roster.peek_ready()) is not None:
            if self._is_unwanted(frame.ref):
                if self._roster.take_ready(frame):
                    self._sink.put(Left(frame.ref, parked=self._park.is_set()))
            elif not self._join(frame):
                break
        if self._new:
            self._sink.put(Joined(tuple(self._new)))
            self._new.clear()
        return len(self._joined)

    def _is_unwanted(self, ref: FrameRef) -> bool:
        held = self._roster.get(ref)
        return held is None or held.is_unwanted or self._park.is_set()

    def _join(self, frame: Prepared) -> bool:
        """Whether to look at the next frame: this one joined, failed, or went away meanwhile."""
        try:
            engine = self._engine_of(frame)
            if engine is None or not engine.offer(frame).ok:
                return False
            if not self._roster.take_ready(frame):
                return True
            self._roster.begin_to_join(frame)
            self._joined.append(frame)
            if frame.ref not in self._new:
                self._new.append(frame.ref)
            engine.join(frame)
            if self._is_unwanted(frame.ref):  # a wish that came between the look and the join
                engine.cancel(frame.ref.job_id)
        except DeviceLost:
            raise
        except Exception as error:  # the edge of one frame: it fails, its neighbours go on
            self._drop(frame, error)
        return True

    def _drop(self, frame: Prepared, error: Exception) -> None:
        if frame in self._joined:
            self._joined.remove(frame)
        elif not self._roster.take_ready(frame):
            return
        self._sink.put(Failed(frame.ref, error))

    def _engine_of(self, frame: Prepared) -> Engine | None:
        """The engine of the frame's model; None while another model's frames are in."""
        card = self._catalogue.get(frame.params.model)
        if card is None:
            raise JobFailure("the model left the catalogue", code="model_unavailable")
        if self._joined and self._joined[0].params.model != card.id:
            return None
        if card.id not in self._residency.resident():
            self._load(card, frame)
        self._engine = self._residency.engine_for(card)
        return self._engine

    def _load(self, card: ModelCard, frame: Prepared) -> None:
        began = time.monotonic()
        self._watchdog.expect_a_load()
        try:
            self._residency.engine_for(card)
        except Exception as error:
            if not is_device_lost(error):
                raise
            lost = DeviceLost(str(error))
            for begun in self._roster.take_begun():  # what has not joined is released by who ends the process
                self._sink.put(Failed(begun.ref, lost))
            raise lost from error
        finally:
            self._watchdog.rest()
        load_ms = round((time.monotonic() - began) * 1000)
        _log.info("model.loaded", model=card.id, load_ms=load_ms)
        if held := self._roster.get(frame.ref):
            held.facts["load_ms"] = load_ms

    def _tick(self) -> None:
        engine, frames = self._engine, self._joined
        if engine is None:
            return
        self._pace.observe(self._remaining())
        self._watchdog.expect_a_step()
        try:
            engine.tick(self._emit)
        except DeviceLost as error:
            frames = [*frames, *self._roster.take_begun()]
            error.alone = len({frame.ref.job_id for frame in frames}) == 1
            for frame in frames:
                self._sink.put(Failed(frame.ref, error))
            raise
        finally:
            self._watchdog.rest()

    def _emit(self, event: Event) -> None:
        if isinstance(event, Previewed):
            self._roster.preview(event.ref, event.picture)
            return
        frame = next((frame for frame in self._joined if frame.ref == event.ref), None)
        if frame is None:
            return
        if isinstance(event, Stepped):
            self._watchdog.expect_a_step()
            self._done[event.ref] = event.step
            self._roster.step(event.ref, frame.steps_before + event.step)
        else:
            self._joined.remove(frame)
            self._done.pop(event.ref, None)
            self._release(frame, event)
        self._pace.observe(self._remaining())

    def _release(self, frame: Prepared, event: Finished | Failed | Left) -> None:
        """Hand the end of a pass to the sink, and a frame that has another pass before it back to the queue's head."""
        try:
            if isinstance(event, Finished) and event.pixels is not None:
                event = replace(event, pixels=complete(frame, event.pixels))
            if isinstance(event, Finished) and frame.number < len(frame.job.params.then):
                self._roster.make_next_ready(next_frame(frame, event))
        except Exception as error:  # the edge of one frame: it fails, its neighbours and the process go on
            event = Failed(frame.ref, error)
        self._sink.put(event)

    def _remaining(self) -> int:
        """Steps until the last frame is done with all its passes, at least one while any is in."""
        return max((max(1, self._steps_left(frame)) for frame in self._joined), default=0)

    def _steps_left(self, frame: Prepared) -> int:
        return frame.job.params.total_steps - frame.steps_before - self._done.get(frame.ref, 0)
