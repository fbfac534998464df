"""One worker process: four threads with one duty each, started together and drained in order."""

import os
import socket
import threading
import time
from collections.abc import Callable

import structlog

from common.db import workers
from common.db.engine import Database
from common.db.workers import WorkerCard
from common.domain.catalogue import Catalogue
from common.domain.errors import Unavailable
from common.ids import new_id
from common.settings import Settings
from common.storage.open import open_store
from worker.claimer import Claimer
from worker.engine.building import EngineBuilder
from worker.engine.frames import prepare_frames
from worker.engine.port import Left
from worker.executor import Executor
from worker.heartbeat import Heartbeat
from worker.pace import Pace
from worker.residency import Residency
from worker.results import ResultWriter
from worker.roster import HeldJob, Roster
from worker.sink import Sink
from worker.usage import Usage
from worker.watchdog import Watchdog

_JOIN_SECONDS = 10.0
_STEP_SECONDS = 60.0
_CPU_STEP_SECONDS = 600.0

_log = structlog.get_logger()


class Runtime:
    """Builds the parts of a worker, runs them on threads, and drains them.

    `on_death` is called when a thread ends by an exception: the process has to end then, and a new one starts.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        device: str,
        catalogue: Catalogue,
        build_engine: EngineBuilder,
        on_death: Callable[[], None],
    ) -> None:
        self._settings = settings
        self._on_death = on_death
        self._database = Database(settings.database, pool_size=4)
        self._store = open_store(settings.store, settings.store_public_url)
        self._roster = Roster()
        self._pace = Pace(time.monotonic)
        self.card = WorkerCard(
            new_id("wrk"), settings.pool, socket.gethostname(), os.getpid(), device, settings.launcher or None
        )
        self._residency = Residency(build_engine, budget_bytes=build_engine.budget_bytes(settings.model_memory_bytes))
        self._watchdog = Watchdog(settings.watchdog_seconds or _floor_seconds(device), time.monotonic)
        self._sink = Sink(
            database=self._database,
            results=ResultWriter(self._store),
            roster=self._roster,
            device=device,
            cancel=lambda job_id: self._executor.cancel(job_id),
            threads=settings.store_threads,
        )
        self._claimer = Claimer(
            settings=settings,
            worker_id=self.card.id,
            device=device,
            database=self._database,
            store=self._store,
            roster=self._roster,
            wanted=lambda: self._executor.wanted(),
            may_park=lambda: self._executor.may_park(),
            prepare=lambda job, inputs: prepare_frames(job, inputs, build_engine.may_hand_latents),
            on_failure=self._sink.fail_unprepared,
            emit=self._sink.put,
            resident=self._residency.resident,
            company="step" if build_engine.capacity.has_late_join else "call",
        )
        self._executor = Executor(
            catalogue=catalogue,
            residency=self._residency,
            capacity=build_engine.capacity,
            roster=self._roster,
            pace=self._pace,
            sink=self._sink,
            watchdog=self._watchdog,
            wake_claimer=self._claimer.wake_unless_dry,
        )
        self._heartbeat = Heartbeat(
            settings=settings,
            card=self.card,
            database=self._database,
            roster=self._roster,
            watchdog=self._watchdog,
            cancel=self._cancel,
            resident=self._residency.resident,
            paces=self._executor.throughput.paces,
        )
        self._threads = {
            name: threading.Thread(target=self._guarded, args=(name, run), name=name, daemon=True)
            for name, run in {
                "sink": self._sink.run,
                "device": self._executor.run,
                "heartbeat": self._heartbeat.run,
                "claimer": self._claimer.run,
            }.items()
        }
        self._draining = threading.Event()
        self.drained = threading.Event()

    @property
    def usage(self) -> Usage:
        """How busy the device thread is."""
        return self._executor.usage

    @property
    def has_stragglers(self) -> bool:
        """After a drain: whether threads are left that a store or a step keeps and that Python cannot stop."""
        return self._sink.is_storing() or self._threads["device"].is_alive()

    def await_database(self) -> None:
        """Return once the database answers: a worker that starts during an outage is there when it is over."""
        while True:
            try:
                return self._database.ping()
            except Unavailable as error:
                _log.warning("worker.waits", detail=error.detail)
                time.sleep(self._settings.poll_seconds)

    def start(self) -> None:
        """Register and begin to work. Raises `Unavailable` when the database is away."""
        with self._database.write() as connection:
            workers.register(connection, self.card)
        for thread in self._threads.values():
            thread.start()
        _log.info("worker.started", worker=self.card.id, device=self.card.device, pool=self.card.pool)

    def ring(self) -> None:
        """A doorbell: look for work now."""
        self._claimer.wake()

    def drain(self) -> None:
        """Stop claiming, finish what fits the grace, release the rest with its try given back, then leave.

        Returns at once when a drain is under way already.
        """
        if self._draining.is_set():
            return
        self._draining.set()
        began = time.monotonic()
        _log.info("worker.draining", grace_seconds=self._settings.drain_seconds)
        self._heartbeat.is_draining = True
        self._claimer.stop()
        self._threads["claimer"].join(_JOIN_SECONDS)
        self._release_unjoined()
        self._executor.stop()
        ends_at = began + self._settings.drain_seconds
        self._finish_within(ends_at)
        self._close(ends_at)
        busy, whole = self.usage.seconds()
        share = {"busy_share": round(busy / whole, 3)} if whole else {}
        _log.info("worker.drained", seconds=round(time.monotonic() - began, 1), **share)
        self.drained.set()

    def _finish_within(self, ends_at: float) -> None:
        device = self._threads["device"]
        while device.is_alive() and self._fits(ends_at):
            device.join(0.2)
        if device.is_alive():
            self._executor.park()
            device.join(max(_JOIN_SECONDS, ends_at - time.monotonic()))

    def _fits(self, ends_at: float) -> bool:
        """Whether what runs can still be finished within the grace."""
        left = self._pace.seconds_left()
        return time.monotonic() + (left or 0.0) < ends_at

    def _release_unjoined(self) -> None:
        for ref in self._roster.take_unjoined():
            self._sink.put(Left(ref, parked=True))

    def _close(self, ends_at: float) -> None:
        self._sink.close()
        self._threads["sink"].join(max(_JOIN_SECONDS, ends_at - time.monotonic()))
        if self._threads["sink"].is_alive():
            self._sink.abandon()
            self._threads["sink"].join(_JOIN_SECONDS)
        self._sink.release_rest()
        self._heartbeat.stop()
        self._threads["heartbeat"].join(_JOIN_SECONDS)
        try:
            with self._database.write() as connection:
                workers.leave(connection, self.card.id)
        except Unavailable as error:
            _log.warning("worker.not_signed_off", detail=error.detail)
        self._database.close()

    def _cancel(self, held: HeldJob) -> None:
        """Its unjoined frames leave now, the others at the next step."""
        self._executor.cancel(held.job.id)
        for ref in self._roster.take_unjoined(held.job.id):
            self._sink.put(Left(ref, parked=False))

    def _guarded(self, name: str, run: Callable[[], None]) -> None:
        try:
            run()
        except BaseException as error:
            _log.error("worker.thread_died", thread=name, exc_info=error)
            if name == "device":
                self._release_unjoined()
                self._sink.close()
                self._threads["sink"].join(_JOIN_SECONDS)
            self._on_death()


def _floor_seconds(device: str) -> float:
    """What one step may take at least before the watchdog barks."""
    return _CPU_STEP_SECONDS if device == "cpu" else _STEP_SECONDS
