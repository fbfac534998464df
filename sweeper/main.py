"""The sweeper: heals what was dropped. One loop of `run_once`; any number may run."""

import random
import signal
import threading
import time
from collections.abc import Callable

import structlog

from common import failpoints
from common.db import rescue
from common.db.engine import Contention, Database
from common.db.forgetting import forget_deliveries, forget_own_webhooks
from common.db.intakes import forget_intakes
from common.db.uploads import forget_expired
from common.db.workers import count_live
from common.domain.errors import Unavailable
from common.logging import configure_logging
from common.queue.doorbell import Doorbell, open_doorbell
from common.settings import Settings
from common.storage.open import open_store
from sweeper.cleaner import Cleaner

_SILENT_LEASES = 4
_LAST_ROUND_SECONDS = 10.0
_REFUSED_SECONDS = 600.0

_log = structlog.get_logger()


class Sweeper:
    """Rescues jobs of dead workers, ends queued jobs that must not run, releases delayed ones, forgets the stale."""

    def __init__(self, settings: Settings, database: Database, doorbell: Doorbell) -> None:
        self._settings = settings
        self._database = database
        self._doorbell = doorbell
        self._refused: dict[str, float] = {}
        self._webhooks_looked_to = ""

    def run_once(self) -> int:
        """One sweep, each page in a transaction of its own. Returns how many jobs moved. Raises `Unavailable`.

        What one part stumbles over keeps no other from its work.
        """
        moved = sum(self._guarded(part) for part in (self._rescue_all, self._end_all, self._release_all, self._forget))
        if moved:
            self._doorbell.ring_courier()  # webhooks want to know
        return moved

    def _guarded(self, part: Callable[[], int]) -> int:
        try:
            return part()
        except Unavailable:
            raise
        except Exception as error:  # the edge of one part of a sweep
            _log.error("sweep.failed", part=part.__name__, exc_info=error)
            return 0

    def _end_all(self) -> int:
        ended = 0
        while page := self._database.transact(rescue.end_queued):
            ended += page
        return ended

    def _release_all(self) -> int:
        released: list[str] = []
        while pools := self._database.transact(rescue.release_delayed):
            released += pools
        for pool in set(released):
            self._doorbell.ring(pool, released.count(pool))
        return len(released)

    def _rescue_all(self) -> int:
        """Everything whose lease ran out, but for what could not be moved a while ago."""
        self._refused = {job_id: until for job_id, until in self._refused.items() if until > time.monotonic()}
        rescued: int = 0
        after: rescue.Cursor | None = None
        while True:
            page = self._rescue_page(after)
            self._refused |= dict.fromkeys(page.refused, time.monotonic() + _REFUSED_SECONDS)
            rescued, after = rescued + len(page.ids), page.following
            if page.ids:
                _log.warning("jobs.rescued", jobs=page.ids)
            if after is None:
                return rescued

    def _rescue_page(self, after: rescue.Cursor | None) -> rescue.Rescued:
        jitter = random.uniform(-1, 1)  # noqa: S311 - spreads retries
        lease_seconds, refused = self._settings.lease_seconds, self._refused
        return self._database.transact(
            lambda c: rescue.rescue_expired(c, jitter, lease_seconds=lease_seconds, after=after, leave_out=refused)
        )

    def _forget(self) -> int:
        silent_seconds = _SILENT_LEASES * self._settings.lease_seconds
        self._database.transact(lambda connection: rescue.forget_workers(connection, silent_seconds))
        for forget_page in (rescue.forget_idempotency_keys, forget_expired, forget_intakes):
            while self._database.transact(forget_page):
                pass
        self._forget_webhooks()
        return 0

    def _forget_webhooks(self) -> None:
        log_seconds, after = self._settings.delivery_log_seconds, self._webhooks_looked_to
        while self._database.transact(lambda connection: forget_deliveries(connection, log_seconds)):
            pass
        self._webhooks_looked_to = self._database.transact(
            lambda connection: forget_own_webhooks(connection, log_seconds, after)
        )


def run(settings: Settings) -> int:
    """Sweep until SIGTERM or SIGINT. Returns the exit status."""
    configure_logging(settings, "sweeper")
    failpoints.arm(settings.failpoints, settings.failpoint_seed)
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    database = Database(settings.database, pool_size=4)
    doorbell = open_doorbell(settings, lambda pool: _live(database, settings, pool))
    sweeper = Sweeper(settings, database, doorbell)
    cleaner = Cleaner(settings, database, lambda: open_store(settings.store, settings.store_public_url))
    cleaning = threading.Thread(target=cleaner.run, args=(stop,), name="cleaner", daemon=True)
    cleaning.start()
    _log.info("sweeper.started")
    away_since: float | None = None
    while not stop.wait(settings.sweep_seconds * random.uniform(0.8, 1.2)):  # noqa: S311 - spreads the sweeps
        if away_since is not None and _is_back(database):
            if time.monotonic() - away_since > settings.heartbeat_seconds:
                stop.wait(settings.lease_seconds)  # workers that live must have the time to renew
            away_since = None
        try:
            sweeper.run_once()
        except Contention as error:  # nothing was away
            _log.warning("sweep.contended", detail=error.detail)
        except Unavailable as error:
            _log.warning("sweep.unavailable", detail=error.detail)
            away_since = away_since or time.monotonic()
    cleaning.join(_LAST_ROUND_SECONDS)
    doorbell.close()
    database.close()
    return 0


def _is_back(database: Database) -> bool:
    try:
        database.ping()
    except Unavailable:
        return False
    return True


def _live(database: Database, settings: Settings, pool: str) -> int:
    with database.read() as connection:
        return count_live(connection, pool, settings.lease_seconds)
