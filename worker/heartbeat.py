"""The heartbeat thread: renews leases, hears wishes, reports progress. An error is not a lost lease; an answer is."""

import threading
import time
from collections.abc import Callable
from io import BytesIO
from itertools import count

import structlog
from PIL.Image import Image, Resampling

from common.db import claims, reports, workers
from common.db.claims import Held
from common.db.engine import Database
from common.db.workers import WorkerCard
from common.domain.errors import Unavailable
from common.domain.job import Progress
from common.settings import Settings
from worker.engine.port import FrameRef
from worker.roster import HeldJob, Roster
from worker.watchdog import Watchdog

_log = structlog.get_logger()


class DeviceHung(Exception):
    """The device thread is stuck; only a new process helps."""


class Heartbeat:
    """Looks at the held jobs every `wish_seconds`, renews their leases every `heartbeat_seconds`."""

    def __init__(
        self,
        *,
        settings: Settings,
        card: WorkerCard,
        database: Database,
        roster: Roster,
        watchdog: Watchdog,
        cancel: Callable[[HeldJob], None],
        resident: Callable[[], tuple[str, ...]],
        paces: Callable[[], dict[str, float] | None],
    ) -> None:
        self._settings = settings
        self._card = card
        self._database = database
        self._roster = roster
        self._watchdog = watchdog
        self._cancel = cancel
        self._resident = resident
        self._paces = paces
        self._stop = threading.Event()
        self._renewed_at = 0.0
        self._reports = count(1)
        self._reported: dict[FrameRef, Progress] = {}
        self.is_draining = False

    def run(self) -> None:
        """Beat until stopped. Raises `DeviceHung` when the watchdog barks."""
        while not self._stop.wait(min(self._settings.wish_seconds, self._settings.heartbeat_seconds)):
            if self._watchdog.is_overdue():
                raise DeviceHung("the device gave no sign of life for too long")
            try:
                self.run_once()
            except Unavailable as error:
                _log.warning("heartbeat.unavailable", detail=error.detail)
            except Exception as error:  # the edge of one beat: the next one may do better before the leases run out
                _log.error("heartbeat.failed", exc_info=error)

    def run_once(self) -> None:
        """One look, and a renewal when it is due."""
        before = self._roster.held()
        answer = self._renew(before) if self._is_due() else self._look(before)
        if answer is not None:
            self._compare(before, answer)
        self._report()

    def stop(self) -> None:
        """Beat no more."""
        self._stop.set()

    def _is_due(self) -> bool:
        return time.monotonic() - self._renewed_at >= self._settings.heartbeat_seconds

    def _look(self, before: list[HeldJob]) -> list[Held] | None:
        if not before:
            return None
        with self._database.read() as connection:
            return claims.look_at_held(connection, self._card.id)

    def _renew(self, before: list[HeldJob]) -> list[Held]:
        state = "draining" if self.is_draining else "ready"
        with self._database.write() as connection:
            workers.beat(connection, self._card, state=state, resident=self._resident(), paces=self._paces())
            ids = [held.job.id for held in before]
            answer = claims.renew(connection, self._card.id, ids, self._settings.lease_seconds)
        self._renewed_at = time.monotonic()
        return answer

    def _compare(self, before: list[HeldJob], answer: list[Held]) -> None:
        ours = {(held.job_id, held.fence): held for held in answer}
        for job in before:
            wish = ours.get((job.job.id, job.job.fence))
            if wish is None:
                job.is_lost = True
            elif wish.cancel_requested:
                job.is_cancel_wished = True
            elif wish.deadline_passed:
                job.is_late = True
            else:
                continue
            self._cancel(job)

    def _report(self) -> None:
        progress = {FrameRef(job.id, job.fence, 0): (job, at) for job, at in self._roster.progress()}
        news = {ref: at for ref, (_, at) in progress.items() if self._reported.get(ref) != at}
        if news:
            with self._database.write() as connection:
                for ref, at in news.items():
                    job = progress[ref][0]
                    reports.report_progress(connection, job.tenant_id, job.id, job.fence, next(self._reports), at)
        self._report_previews()
        self._reported = {ref: at for ref, (_, at) in progress.items()}

    def _report_previews(self) -> None:
        previews = self._roster.take_previews()
        if not previews:
            return
        encoded = [(job, _as_jpeg(picture)) for job, picture in previews]  # while nobody waits for this to commit
        with self._database.write() as connection:
            for job, jpeg in encoded:
                reports.report_preview(connection, job.id, job.fence, jpeg)


def _as_jpeg(picture: Image) -> bytes:
    """A preview as it is sent: four times the size of the latents, a few kB."""
    buffer = BytesIO()
    larger = picture.resize((picture.width * 4, picture.height * 4), Resampling.BICUBIC)
    larger.save(buffer, format="JPEG", quality=80)
    return buffer.getvalue()
