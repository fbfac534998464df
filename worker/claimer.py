"""The claimer: takes work from SQL when the device will soon be free, and prepares it on the CPU."""

import random
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import structlog

from common import failpoints
from common.db import claims
from common.db.choosing import Company
from common.db.engine import Database
from common.domain.affinity import Affinity
from common.domain.errors import DarkroomError, Unavailable
from common.domain.job import ClaimedJob
from common.domain.retry import TryAgain
from common.settings import Settings
from common.storage.port import ObjectStore
from worker.engine.frames import Start
from worker.engine.port import Finished, Left
from worker.roster import Roster
from worker.store_access import InputReader

Prepare = Callable[[ClaimedJob, dict[str, bytes]], Start]
OnFailure = Callable[[ClaimedJob, Exception], None]

_URGENT = 2

_log = structlog.get_logger()


class Claimer:
    """Claims the head of the queue with its company, loads the inputs, and makes the frames ready.

    `resident` says which models are loaded: their jobs may come a little before their turn.
    """

    def __init__(
        self,
        *,
        settings: Settings,
        worker_id: str,
        device: str,
        database: Database,
        store: ObjectStore,
        roster: Roster,
        wanted: Callable[[], int],
        may_park: Callable[[], bool],
        prepare: Prepare,
        on_failure: OnFailure,
        emit: Callable[[Finished | Left], None],
        resident: Callable[[], tuple[str, ...]] = tuple,
        company: Company = "call",
    ) -> None:
        self._settings = settings
        self._worker_id = worker_id
        self._device = device
        self._database = database
        self._inputs = InputReader(store)
        self._roster = roster
        self._wanted = wanted
        self._may_park = may_park
        self._prepare = prepare
        self._on_failure = on_failure
        self._emit = emit
        self._resident = resident
        self._company = company
        self._preparing = ThreadPoolExecutor(settings.prepare_threads, "prepare")
        self._is_dry = False
        self.bell = threading.Event()
        self._stop = threading.Event()

    def run(self) -> None:
        """Claim until stopped: at every bell, whenever the device frees up, and once a second (± 20 %)."""
        while not self._stop.is_set():
            if not self._run_once_safely():
                self._wait()
        self._preparing.shutdown(wait=False, cancel_futures=True)

    def _run_once_safely(self) -> int:
        try:
            return self.run_once()
        except Unavailable as error:
            _log.warning("claim.unavailable", detail=error.detail)
        except Exception as error:  # the edge of one claim: whatever it was, running jobs must not die of it
            _log.error("claim.failed", exc_info=error)
        return 0

    def run_once(self) -> int:
        """One claim, if there is room. Returns how many jobs it brought."""
        if self._stop.is_set() or self._roster.has_solo():
            return 0
        room = self._wanted()
        if room <= 0 and not self._may_park():
            return 0
        jobs = self._claim(room) if room > 0 else self._claim(_URGENT, urgent=True)
        if jobs:
            failpoints.hit("worker.claimed")
        if room > 0:
            self._is_dry = not jobs
        self._take([job for job in jobs if self._hold(job)])
        return len(jobs)

    def wake(self) -> None:
        """Look for work now."""
        self.bell.set()

    def wake_unless_dry(self) -> None:
        """The device has room: look for work now, unless the last look found none and no bell has rung since."""
        if not self._is_dry:
            self.bell.set()

    def stop(self) -> None:
        """Claim nothing more. Rings no bell: in a signal handler the main thread may be inside one."""
        self._stop.set()

    def _wait(self) -> None:
        seconds = self._settings.poll_seconds * random.uniform(0.8, 1.2)  # noqa: S311 - spreads the polls
        if self.bell.wait(seconds):
            self._is_dry = False  # until we have looked: there may be no room for what it rang for
        self.bell.clear()

    def _claim(self, limit: int, *, urgent: bool = False) -> list[ClaimedJob]:
        alone = self._roster.is_empty()
        affinity = Affinity(frozenset(self._resident()), self._settings.passed_over_seconds)
        with self._database.write() as connection:
            return claims.claim(
                connection,
                worker_id=self._worker_id,
                device=self._device,
                pool=self._settings.pool,
                limit=limit,
                lease_seconds=self._settings.lease_seconds,
                alone=alone,
                company=self._company,
                urgent=urgent,
                affinity=affinity,
            )

    def _take(self, jobs: list[ClaimedJob]) -> None:
        """Make held jobs ready, in their order; several are fetched and prepared at once.

        During a drain they are left as they are: the drain releases what has not joined.
        """
        for job, start in zip(jobs, self._preparing.map(self._prepared, jobs), strict=True):
            if isinstance(start, Exception):
                self._on_failure(job, start)
            elif start is not None:
                self._begin(start)

    def _prepared(self, job: ClaimedJob) -> Start | Exception | None:
        """What the job starts with, or why it cannot: the sink classifies that. None during a drain."""
        if self._stop.is_set():
            return None
        with structlog.contextvars.bound_contextvars(job_id=job.id, fence=job.fence):
            _log.info("job.claimed", tries=job.tries, model=job.params.model)
            try:
                inputs = self._inputs.read(job)
                failpoints.hit("worker.loaded")
                return self._prepare(job, inputs)
            except Exception as error:  # the edge of one job's preparation
                return error

    def _hold(self, job: ClaimedJob) -> bool:
        """Enter a claimed job at once, so that its lease is renewed while others before it are loaded."""
        is_held = self._roster.add(job)
        if not is_held:
            self._refuse(job)
        return is_held

    def _begin(self, start: Start) -> None:
        """The frames may join; what an earlier attempt kept goes the way of results, first."""
        for kept in start.kept:
            self._emit(kept)
        if not self._roster.make_ready(start.frames):
            self._emit(Left(start.frames[0].ref, parked=False))

    def _refuse(self, job: ClaimedJob) -> None:
        """An older attempt of this job has not left yet; its lease was lost, so the job goes back untouched."""
        try:
            with self._database.write() as connection:
                claims.hand_back(connection, job.id, job.fence, TryAgain(delay_seconds=1.0, refund=True))
        except DarkroomError as error:
            _log.warning("job.not_refused", detail=error.detail)
