"""The sink: what the device gives goes out here: encode, store, finish. It alone concludes jobs."""

import queue
import random
import threading
from collections.abc import Callable
from dataclasses import dataclass
from itertools import chain, repeat

import structlog
from sqlalchemy import Connection

from common.clock import utc_now
from common.db import claims
from common.db.engine import Database
from common.domain.errors import JobFailure, Unavailable
from common.domain.job import ClaimedJob
from common.domain.retry import GiveUp, TryAgain, after_failure
from worker.engine.port import Failed, Finished, FrameRef, Left
from worker.failures import classify
from worker.results import ResultWriter
from worker.roster import HeldJob, Roster

_DEPTH = 32
_PAUSES_SECONDS = (0.1, 0.2, 0.5, 1.0, 2.0)

_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Joined:
    """A frame went into the engine."""

    ref: FrameRef


SinkEvent = Joined | Finished | Failed | Left


class Sink:
    """One thread that writes down what happened, in the order in which it happened.

    A database that is away is waited for: the device goes on, and the fence decides in the end.
    """

    def __init__(
        self, *, database: Database, results: ResultWriter, roster: Roster, device: str, cancel: Callable[[str], None]
    ) -> None:
        self._database = database
        self._results = results
        self._roster = roster
        self._device = device
        self._cancel = cancel
        self._events: queue.Queue[SinkEvent | None] = queue.Queue(_DEPTH)
        self._abandon = threading.Event()

    def put(self, event: SinkEvent) -> None:
        """Hand over one event; blocks while the sink is far behind."""
        self._events.put(event)

    def run(self) -> None:
        """Work off events until closed."""
        while (event := self._events.get()) is not None:
            held = self._roster.get(event.ref)
            if held is None:
                continue
            with structlog.contextvars.bound_contextvars(job_id=held.job.id, fence=held.job.fence):
                self._handle(held, event)

    def close(self) -> None:
        """Let `run` end after what has been put."""
        self._events.put(None)

    def abandon(self) -> None:
        """Stop waiting for a database that is away; leases run out and the sweeper takes over."""
        self._abandon.set()

    def fail_unprepared(self, job: ClaimedJob, error: Exception) -> None:
        """A job that never became ready: all its frames fail at once. Any thread."""
        self.put(Failed(FrameRef(job.id, job.fence, 0), error))

    def _handle(self, held: HeldJob, event: SinkEvent) -> None:
        match event:
            case Joined():
                self._join(held)
                return
            case Finished() if not held.is_unwanted:
                self._keep(held, event)
            case Failed():
                self._note_failure(held, event.error)
            case Left(parked=True):
                held.is_parked = True
            case _:
                pass
        held.open_frames.discard(event.ref.index)
        if not held.open_frames:
            self._conclude(held)

    def _join(self, held: HeldJob) -> None:
        if held.has_joined:
            return
        held.has_joined = True
        held.facts["queue_ms"] = max(0, round((utc_now() - held.job.created_at).total_seconds() * 1000))
        job = held.job
        if not self._insist(lambda connection: claims.join(connection, job.id, job.fence, self._device)):
            held.is_lost = True
            self._cancel(job.id)

    def _keep(self, held: HeldJob, event: Finished) -> None:
        held.stage = "storing"
        try:
            image, facts = self._results.write(held.job, event)
        except Exception as error:  # the edge of one frame's storing
            self._note_failure(held, error)
        else:
            held.results[event.ref.index] = image
            held.facts.update(facts)

    def _note_failure(self, held: HeldJob, error: Exception) -> None:
        if held.failure is None:
            held.failure = error
            self._cancel(held.job.id)

    def _conclude(self, held: HeldJob) -> None:
        """All frames are out: one transition, by whichever reason weighs most."""
        job, won = held.job, len(held.results) == held.job.params.num_images
        if held.is_lost:
            _log.warning("job.lost")
        elif won:
            self._finish(held)
        elif held.is_late:
            self._fail(job, JobFailure("the deadline passed while the job ran", code="deadline_exceeded").as_dict())
        elif held.is_cancel_wished:
            self._insist(lambda connection: claims.cancel_running(connection, job.id, job.fence))
            _log.info("job.canceled")
        elif held.failure is not None:
            self._fail_or_retry(job, held.failure)
        else:
            self._hand_back(job, TryAgain(refund=True), "released")
        self._roster.remove(job)

    def _finish(self, held: HeldJob) -> None:
        job, images = held.job, [held.results[index] for index in sorted(held.results)]
        won = self._insist(lambda connection: claims.finish(connection, job, images, held.facts))
        if won is False:  # refused, unless it is our own commit whose answer was lost
            won = self._insist(lambda connection: claims.has_succeeded(connection, job.id, job.fence))
        _log.info("job.succeeded" if won else "job.refused", **held.facts)

    def _fail_or_retry(self, job: ClaimedJob, error: Exception) -> None:
        verdict = classify(error)
        jitter = random.uniform(-1, 1)  # noqa: S311 - spreads retries
        decision = after_failure(verdict.kind, verdict.code, tries=job.tries, max_tries=job.max_tries, jitter=jitter)
        _log.warning("job.attempt_failed", kind=verdict.kind, code=verdict.code, exc_info=error)
        if isinstance(decision, GiveUp):
            self._fail(job, JobFailure(verdict.detail, code=decision.code).as_dict())
        else:
            self._hand_back(job, decision, verdict.code)

    def _fail(self, job: ClaimedJob, error: dict[str, object]) -> None:
        self._insist(lambda connection: claims.fail(connection, job.id, job.fence, error))
        _log.info("job.failed", code=error["code"])

    def _hand_back(self, job: ClaimedJob, decision: TryAgain, code: str) -> None:
        self._insist(lambda connection: claims.hand_back(connection, job.id, job.fence, decision, code))
        _log.info("job.handed_back", code=code, delay_seconds=round(decision.delay_seconds, 1))

    def _insist(self, write: Callable[[Connection], bool]) -> bool | None:
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
