"""The sink: what the device gives goes out here: encode, store, finish. It alone concludes jobs."""

import queue
import random
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from itertools import chain, repeat
from typing import TypeVar

import structlog
from sqlalchemy import Connection

from common import failpoints
from common.db import chains, claims
from common.db.engine import Database
from common.domain.errors import JobFailure, Unavailable
from common.domain.job import ClaimedJob, StoredImage
from common.domain.retry import GiveUp, TryAgain, after_failure, after_loss
from worker.engine.port import DeviceLost, Failed, Finished, FrameRef, Left
from worker.failures import classify
from worker.results import ResultWriter
from worker.roster import HeldJob, Roster
from worker.storing import Developed, Stored, Storer

Answer = TypeVar("Answer")

_DEPTH = 32
_PAUSES_SECONDS = (0.1, 0.2, 0.5, 1.0, 2.0)

_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Joined:
    """Frames went into the engine together."""

    refs: tuple[FrameRef, ...]


SinkEvent = Joined | Stored | Failed | Left


class Sink:
    """One thread that writes down what happened, in the order in which it happened; pictures are stored beside it.

    A database that is away is waited for: the device goes on, and the fence decides in the end.
    """

    def __init__(
        self,
        *,
        database: Database,
        results: ResultWriter,
        roster: Roster,
        device: str,
        cancel: Callable[[str], None],
        threads: int = 8,
    ) -> None:
        self._database = database
        self._roster = roster
        self._device = device
        self._cancel = cancel
        self._events: queue.SimpleQueue[SinkEvent | None] = queue.SimpleQueue()
        self._storer = Storer(results=results, roster=roster, threads=threads, done=self._events.put)
        self._room = threading.BoundedSemaphore(threads + _DEPTH)
        self._pending: Counter[tuple[str, int]] = Counter()
        self._lock = threading.Lock()
        self._abandon = threading.Event()

    def put(self, event: Joined | Developed | Finished | Failed | Left) -> None:
        """Hand over one event. A picture waits while the sink is far behind; nothing else ever does."""
        if isinstance(event, (Developed, Finished)):
            self._room.acquire()
            with self._lock:
                self._pending[event.ref.job_id, event.ref.fence] += 1
            self._storer.put(event)
        else:
            self._events.put(event)

    def run(self) -> None:
        """Work off events until closed and all pictures are stored."""
        is_closed = False
        while not is_closed or (self._pending and not self._abandon.is_set()):
            event = self._events.get()
            if event is None:
                is_closed = True
                continue
            if isinstance(event, Stored):
                self._room.release()
                self._count(event.ref)
            if isinstance(event, Joined):
                self._join(event.refs)
            elif held := self._roster.get(event.ref):
                with structlog.contextvars.bound_contextvars(job_id=held.job.id, fence=held.job.fence):
                    self._handle(held, event)
        self._storer.close()

    def close(self) -> None:
        """Let `run` end after what has been put."""
        self._events.put(None)

    def abandon(self) -> None:
        """Stop waiting for a database or a store that is away; leases run out and the sweeper takes over."""
        self._abandon.set()
        self._storer.give_up()
        self._events.put(None)

    def release_rest(self) -> None:
        """At the end of a drain: what the device did not let go of in time goes back with its try, unless a wish or a
        failure weighs more. Only after `run`.
        """
        self._abandon.set()  # one look at the database, no waiting
        for held in self._roster.held():
            with structlog.contextvars.bound_contextvars(job_id=held.job.id, fence=held.job.fence):
                self._conclude_safely(held)

    def is_storing(self) -> bool:
        """Whether pictures are on their way to the store, which only the end of the process stops now."""
        with self._lock:
            return bool(self._pending)

    def fail_unprepared(self, job: ClaimedJob, error: Exception) -> None:
        """A job that never became ready: all its frames fail at once. Any thread."""
        self.put(Failed(FrameRef(job.id, job.fence, 0), error))

    def _count(self, ref: FrameRef) -> None:
        with self._lock:
            key = (ref.job_id, ref.fence)
            self._pending[key] -= 1
            if not self._pending[key]:
                del self._pending[key]

    def _handle(self, held: HeldJob, event: Stored | Failed | Left) -> None:
        match event:
            case Stored(error=None) if not held.is_unwanted:
                self._keep_safely(held, event)
            case Stored(error=Exception() as error) | Failed(error=error):
                self._note_failure(held, error)
            case Left(parked=True):
                held.is_parked = True
            case _:
                pass
        if not (isinstance(event, Stored) and event.goes_on):
            held.open_frames.discard(event.ref.index)
        is_out = not held.open_frames and (held.is_prepared or held.is_unwanted or held.is_parked)
        if is_out and (held.job.id, held.job.fence) not in self._pending:
            self._conclude_safely(held)

    def _conclude_safely(self, held: HeldJob) -> None:
        try:
            self._conclude(held)
        except Exception as error:  # the edge of one job: its lease runs out, and the sweeper takes over
            _log.error("job.not_concluded", exc_info=error)
        finally:
            self._roster.remove(held.job)

    def _join(self, refs: tuple[FrameRef, ...]) -> None:
        """One transaction for all that joined together, so that a crash soon after finds all of them or none."""
        found = {(ref.job_id, ref.fence): self._roster.get(ref) for ref in refs}
        new = [held for held in found.values() if held is not None and not held.has_joined]
        for held in new:
            held.has_joined = True
        if not new:
            return
        ours = self._insist(lambda connection: self._write_joins(connection, new)) or set()
        for held in new:
            if held.job.id not in ours:
                held.is_lost = True
                self._cancel(held.job.id)

    def _write_joins(self, connection: Connection, new: list[HeldJob]) -> set[str]:
        waited = claims.waited_seconds(connection, [held.job.id for held in new])
        for held in new:
            held.facts["queue_ms"] = round(waited[held.job.id] * 1000)
        jobs = [held.job for held in new]
        return {job.id for job in jobs if claims.join(connection, job.id, job.fence, self._device)}

    def _keep_safely(self, held: HeldJob, event: Stored) -> None:
        try:
            self._keep(held, event)
        except Exception as error:  # the edge of one picture: its job fails, the others go on
            self._note_failure(held, error)

    def _keep(self, held: HeldJob, event: Stored) -> None:
        """Note what was stored; commit what a pass handed on, so that it need not run again.

        The next pass is under way meanwhile; a crash before this commit costs the pass, not the outcome.
        """
        self._note_facts(held, event)
        if event.image is not None:
            held.results[event.image.index] = event.image
        if event.grid is not None:
            held.grid = event.grid
        if event.step is None:
            return
        step, size = event.step
        if self._insist(lambda connection: chains.record_step(connection, held.job, step, size)) is False:
            held.is_lost = True
            self._cancel(held.job.id)

    def _note_facts(self, held: HeldJob, event: Stored) -> None:
        facts = {**event.made.facts, **event.facts}
        held.warnings += [one for one in facts.pop("warnings", ()) if one not in held.warnings]
        if "run_ms" in facts:
            held.run_ms[event.made.number] = facts["run_ms"]
            facts["run_ms"] = sum(held.run_ms.values())
        held.facts.update(facts)

    def _note_failure(self, held: HeldJob, error: Exception) -> None:
        if held.failure is None:
            held.failure = error
            self._cancel(held.job.id)

    def _conclude(self, held: HeldJob) -> None:
        """All frames are out: one transition, by whichever reason weighs most."""
        job = held.job
        won = held.failure is None and len(held.results) == job.params.result_count
        if held.is_lost:
            _log.warning("job.lost")
        elif won:
            self._finish(held)
        elif held.is_late:
            self._fail(held, JobFailure("the deadline passed while the job ran", code="deadline_exceeded").as_dict())
        elif held.is_cancel_wished:
            taken = held.device_seconds
            self._insist(lambda c: claims.cancel_running(c, job.id, job.fence, device_seconds=taken))
            _log.info("job.canceled")
        elif held.failure is not None:
            self._fail_or_retry(held, held.failure)
        else:
            self._hand_back(held, TryAgain(refund=True), "released")

    def _finish(self, held: HeldJob) -> None:
        job, images = held.job, [held.results[index] for index in sorted(held.results)]
        won = self._insist(lambda connection: self._write_end(connection, held, images))
        failpoints.hit("worker.committed")
        if won is False:  # refused, unless it is our own commit whose answer was lost
            won = self._insist(lambda connection: claims.has_succeeded(connection, job.id, job.fence))
        _log.info("job.succeeded" if won else "job.refused", **held.facts)

    def _write_end(self, connection: Connection, held: HeldJob, images: list[StoredImage]) -> bool:
        own = (held.grid, held.warnings, held.device_seconds)
        won = claims.finish(connection, held.job, images, held.metrics, *own)
        failpoints.hit("worker.in_commit")
        return won

    def _fail_or_retry(self, held: HeldJob, error: Exception) -> None:
        if isinstance(error, DeviceLost):
            self._lose_device(held, error)
            return
        job, verdict = held.job, classify(error)
        jitter = random.uniform(-1, 1)  # noqa: S311 - spreads retries
        decision = after_failure(verdict.kind, verdict.code, tries=job.tries, max_tries=job.max_tries, jitter=jitter)
        _log.warning("job.attempt_failed", kind=verdict.kind, code=verdict.code, exc_info=error)
        if isinstance(decision, GiveUp):
            self._fail(held, JobFailure(verdict.detail, code=decision.code).as_dict())
        else:
            self._hand_back(held, decision, verdict.code)

    def _lose_device(self, held: HeldJob, error: DeviceLost) -> None:
        """A device that is lost is a crash whose process still speaks: counted as the sweeper counts it."""
        job, crashes = held.job, int(error.alone)
        decision = after_loss(
            joined=True,
            alone=error.alone,
            solo_crashes=job.solo_crashes + crashes,
            tries=job.tries,
            max_tries=job.max_tries,
            jitter=random.uniform(-1, 1),  # noqa: S311 - spreads retries
        )
        if isinstance(decision, GiveUp):
            self._fail(held, JobFailure("the job takes the device down", code=decision.code).as_dict())
        else:
            self._hand_back(held, decision, "worker_lost", crashes=crashes)

    def _fail(self, held: HeldJob, error: dict[str, object]) -> None:
        job, taken = held.job, held.device_seconds
        self._insist(lambda c: claims.fail(c, job.id, job.fence, error, device_seconds=taken))
        _log.info("job.failed", code=error["code"])

    def _hand_back(self, held: HeldJob, decision: TryAgain, code: str, *, crashes: int = 0) -> None:
        job, taken = held.job, held.device_seconds
        rest = (decision, code)
        self._insist(lambda c: claims.hand_back(c, job.id, job.fence, *rest, crashes=crashes, device_seconds=taken))
        _log.info("job.handed_back", code=code, delay_seconds=round(decision.delay_seconds, 1))

    def _insist(self, write: Callable[[Connection], Answer]) -> Answer | None:
        """Do one write in a transaction of its own, waiting for a database that is away. None: abandoned."""
        for pause in chain(_PAUSES_SECONDS, repeat(_PAUSES_SECONDS[-1])):
            try:
                with self._database.write() as connection:
                    return write(connection)
            except Unavailable as error:
                _log.warning("sink.waits", detail=error.detail)
                if self._abandon.wait(pause):
                    break
        return None
