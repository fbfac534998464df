"""The device thread: admit what is ready, tick, report. No database, no network, no encoder."""

import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence

import structlog

from common import failpoints
from common.domain.catalogue import Catalogue, ModelCard
from common.domain.errors import JobFailure
from common.domain.fairness import Lane
from worker.engine.building import Capacity
from worker.engine.frames import next_frame
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
from worker.metering import Meter
from worker.pace import Pace
from worker.residency import Residency
from worker.roster import Roster
from worker.sink import Joined, Sink
from worker.storing import Developed
from worker.throughput import Throughput
from worker.turns import TurnTaker
from worker.usage import Usage
from worker.watchdog import Kind, Watchdog

AHEAD_SECONDS = 1.5
# Each costs a text and a picture to encode, and all others wait for it; a call that begins as one takes any number.
JOINS_PER_TICK = 4
_IDLE_SECONDS = 0.5

_log = structlog.get_logger()


class Executor:
    """Runs the engines of all models that have frames, tick by tick in turn, over the frames of the roster."""

    def __init__(
        self,
        *,
        catalogue: Catalogue,
        residency: Residency,
        capacity: Capacity,
        roster: Roster,
        pace: Pace,
        sink: Sink,
        watchdog: Watchdog,
        wake_claimer: Callable[[], None],
    ) -> None:
        self._catalogue = catalogue
        self._residency = residency
        self._capacity = capacity
        self._roster = roster
        self._pace = pace
        self._sink = sink
        self._watchdog = watchdog
        self._wake_claimer = wake_claimer
        self._joined: dict[FrameRef, Prepared] = {}
        self._new: list[FrameRef] = []
        self._busy: dict[str, Engine] = {}
        self._most = capacity.frames
        self._loading: set[str] = set()
        self._turns = TurnTaker()
        self.usage = Usage(time.monotonic)
        self._meter = Meter(lambda: time.monotonic() - self.usage.waited_seconds(), roster.charge)
        self.throughput = Throughput()
        self._stop = threading.Event()
        self._park = threading.Event()

    def run(self) -> None:
        """Tick until stopped and empty. Raises `DeviceLost` when only a new process helps."""
        try:
            while not (self._stop.is_set() and not self._joined and not self._roster.has_frames()):
                if self._joined or self._roster.ready_count():
                    with self.usage.working():
                        self._work()
                else:
                    self._roster.work.wait(_IDLE_SECONDS)
                    self._roster.work.clear()
        except DeviceLost as error:
            self._lose(error)
            raise

    def stop(self) -> None:
        """End when what has joined is done."""
        self._stop.set()
        self._roster.work.set()

    def park(self) -> None:
        """What runs leaves at the next step. Any thread."""
        self._park.set()
        for engine in tuple(self._busy.values()):
            engine.park()

    def cancel(self, job_id: str) -> None:
        """The job's frames leave at the next step. Any thread."""
        for engine in tuple(self._busy.values()):
            engine.cancel(job_id)

    def wanted(self) -> int:
        """How many more frames could start within the next second or so. Any thread."""
        running = self._pace.running()
        free = self._most - running if self._capacity.has_late_join or not running else 0
        return free + self._pace.leaving_within(AHEAD_SECONDS) - self._roster.waiting_count()

    def may_park(self) -> bool:
        """Whether an urgent job would find frames to park. Any thread."""
        joined = tuple(self._joined.values())
        is_urgent = any(frame.job.lane is Lane.HIGH for frame in (*joined, *self._roster.ready()))
        return self._capacity.has_late_join and bool(joined) and not is_urgent

    def _work(self) -> None:
        self._admit()
        if self._joined:
            self._tick()
        else:
            self._watchdog.rest()

    def _admit(self) -> None:
        """Join ready frames as long as their engines take them, the urgent first, a few at a time."""
        refused: set[str] = set()
        room = JOINS_PER_TICK
        for frame in sorted(self._roster.ready(), key=lambda one: one.job.lane is not Lane.HIGH):
            if self._is_unwanted(frame.ref):
                if self._roster.take_ready(frame):
                    self._sink.put(Left(frame.ref, parked=self._park.is_set()))
            elif room and frame.params.model not in refused:
                if self._must_wait_for_memory(frame):
                    break  # nobody behind it may keep the models busy that have to go
                is_in = self._join(frame)
                room -= is_in and self._is_late_joining(frame.params.model)
                refused |= set() if is_in else {frame.params.model}
        if refused:  # how many fit just now engines know better than settings do; each leaving tries one more
            self._most = len(self._joined)
        if self._new:
            self._sink.put(Joined(tuple(self._new)))
            self._new.clear()

    def _is_unwanted(self, ref: FrameRef) -> bool:
        held = self._roster.get(ref)
        return held is None or held.is_unwanted or self._park.is_set()

    def _must_wait_for_memory(self, frame: Prepared) -> bool:
        """Whether the frame's model fits only when a model that is at work is done: a switch drains first."""
        card = self._catalogue.get(frame.params.model)
        return card is not None and not self._residency.has_room_for(card, self._busy)

    def _join(self, frame: Prepared) -> bool:
        """Whether to look at the next frame of this model: this one joined, failed, or went away meanwhile."""
        try:
            engine = self._engine_of(frame)
            if not engine.offer(frame).ok:
                return False
            if not self._roster.take_ready(frame, to_join=True):
                return True
            self._joined[frame.ref] = frame
            self._busy[frame.params.model] = engine
            if frame.ref not in self._new:
                self._new.append(frame.ref)
            self._watchdog.expect_a_step(_kind_of([frame]))
            engine.join(frame)
            self._pace.join(frame.ref, self._steps_left(frame, 0))
            if self._is_unwanted(frame.ref):  # a wish that came between the look and the join
                engine.cancel(frame.ref.job_id)
        except DeviceLost:
            raise
        except Exception as error:  # the edge of one frame: it fails, its neighbours go on
            self._drop(frame, error)
        return True

    def _is_late_joining(self, model: str) -> bool:
        engine = self._busy.get(model)
        return engine is not None and engine.late_join

    def _drop(self, frame: Prepared, error: Exception) -> None:
        if frame.ref in self._joined:
            self._leave(frame)
        elif not self._roster.take_ready(frame):
            return
        self._sink.put(Failed(frame.ref, error))

    def _engine_of(self, frame: Prepared) -> Engine:
        card = self._catalogue.get(frame.params.model)
        if card is None:
            raise JobFailure("the model left the catalogue", code="model_unavailable")
        if card.id not in self._residency.resident():
            self._load(card, frame)
        return self._residency.engine_for(card, self._busy)

    def _load(self, card: ModelCard, frame: Prepared) -> None:
        began = time.monotonic()
        self._watchdog.expect_a_load()
        try:
            self._residency.engine_for(card, self._busy)
        except Exception as error:
            if not is_device_lost(error):
                raise
            self._loading.add(frame.ref.job_id)
            raise DeviceLost(str(error)) from error
        finally:
            self._watchdog.rest()
        self.throughput.load(card.id)
        load_ms = round((time.monotonic() - began) * 1000)
        _log.info("model.loaded", model=card.id, load_ms=load_ms)
        if held := self._roster.get(frame.ref):
            held.facts["load_ms"] = load_ms

    def _tick(self) -> None:
        """One tick of the model whose turn it is."""
        counts = Counter(frame.params.model for frame in self._joined.values())
        model = self._turns.next(counts)
        self._watchdog.expect_a_step(_kind_of([one for one in self._joined.values() if one.params.model == model]))
        began, waited_before = time.monotonic(), self.usage.waited_seconds()
        self._meter.begin(ref for ref, one in self._joined.items() if one.params.model == model)
        try:
            self._busy[model].tick(self._take)
        finally:
            self._watchdog.rest()
            self._meter.settle()
        seconds = time.monotonic() - began
        self._turns.charge(model, seconds, counts[model])
        self.throughput.charge(model, max(0.0, seconds - (self.usage.waited_seconds() - waited_before)))

    def _lose(self, error: DeviceLost) -> None:
        """The device is gone, and with it every frame that has begun; the others are released by who ends us."""
        begun = [*self._joined, *self._roster.take_begun()]
        error.alone = bool(self._joined) and len({ref.job_id for ref in begun} | self._loading) == 1
        for ref in begun:
            self._sink.put(Failed(ref, error))

    def _take(self, event: Event) -> None:
        """What an engine reports."""
        if isinstance(event, Previewed):
            self._roster.preview(event.ref, event.picture)
            return
        frame = self._joined.get(event.ref)
        if frame is None:
            return
        self.throughput.hear(frame, event)
        if isinstance(event, Stepped):
            failpoints.hit("worker.step")
            self._watchdog.expect_a_step()
            self._roster.step(event.ref, frame.steps_before + event.step)
            self._pace.step(event.ref, self._steps_left(frame, event.step))
            return
        self._leave(frame)
        self._release(frame, event)
        self._wake_claimer()

    def _leave(self, frame: Prepared) -> None:
        del self._joined[frame.ref]
        self._meter.leave(frame.ref)
        self._most = min(self._capacity.frames, self._most + 1) if self._joined else self._capacity.frames
        self._pace.leave(frame.ref)
        if all(other.params.model != frame.params.model for other in self._joined.values()):
            self._busy.pop(frame.params.model, None)

    def _release(self, frame: Prepared, event: Finished | Failed | Left) -> None:
        """Hand the end of a pass to the sink. What goes on with latents may join its next pass at once; pictures are
        made ready for it behind the device's back.
        """
        if not isinstance(event, Finished):
            self._sink.put(event)
            return
        if frame.number < len(frame.job.params.then):
            self._roster.expect_next(frame.ref)
            if frame.hands_on == "latents":
                try:
                    self._roster.make_next_ready(next_frame(frame, event))
                except Exception as error:  # the edge of one frame: it fails, its neighbours and the process go on
                    self._roster.forget_next(frame.ref)
                    self._sink.put(Failed(frame.ref, error))
                    return
        with self.usage.waiting():
            self._watchdog.pause()  # a store or a database that is away is no fault of the device
            self._sink.put(Developed(frame, event))
            self._watchdog.expect_a_step()

    def _steps_left(self, frame: Prepared, step: int) -> int:
        """Steps until the frame is done with all its passes, at least one."""
        return max(1, frame.job.params.total_steps - frame.steps_before - step)


def _kind_of(frames: Sequence[Prepared]) -> Kind:
    """What decides how long a tick of one model takes: its largest frame."""
    largest = max((frame.params for frame in frames), key=lambda params: params.width * params.height)
    return largest.model, largest.width, largest.height
