"""The cleaner: what expired, was erased or was left behind by a crash goes from the store. Any number may run.

On a thread of its own beside the sweeper: a store that is slow or away delays no rescue.
"""

import random
import threading
from collections.abc import Callable
from datetime import timedelta
from functools import cached_property
from itertools import islice

import structlog

from common import failpoints
from common.clock import utc_now
from common.db import cleaning
from common.db.engine import Database
from common.domain.errors import Unavailable
from common.settings import Settings
from common.storage.keys import KeyParts, parse_key
from common.storage.port import ObjectStore, StoreUnavailable

_LISTED = 1000
_MOST_FAILURES = 5
OWNER_KEY = "installation.txt"

_log = structlog.get_logger()


class Cleaner:
    """Removes the results of expired and erased jobs, inputs that nobody needs, and objects that no row knows."""

    def __init__(self, settings: Settings, database: Database, open_store: Callable[[], ObjectStore]) -> None:
        self._settings = settings
        self._database = database
        self._open_store = open_store
        self._listed_to = ""
        self._removed_to = ""

    @cached_property
    def _store(self) -> ObjectStore:
        """Opened with the first round, so that it delays no sweep."""
        return self._open_store()

    def run(self, stop: threading.Event) -> None:
        """Clean until stopped. Whatever a round stumbles over is logged, and the next one begins anew."""
        while not stop.wait(self._settings.clean_seconds * random.uniform(0.8, 1.2)):  # noqa: S311 - spreads the load
            try:
                self.run_once()
            except (Unavailable, StoreUnavailable) as error:
                _log.warning("clean.unavailable", detail=str(error))
            except Exception as error:  # the edge of one round
                _log.error("clean.failed", exc_info=error)

    def run_once(self) -> int:
        """One round: expired jobs, expired objects, one page of the store's listing, and all that is marked.

        Returns how many objects were removed. Raises `Unavailable`, and `StoreUnavailable` when there is no listing.
        """
        for work in (cleaning.clean_jobs, cleaning.mark_expired):
            while self._database.transact(work):
                pass
        self._mark_orphans()
        return self._remove_marked()

    def _mark_orphans(self) -> None:
        """Look at the next page of the store; a whole round through it takes many of these."""
        if not self._settings.orphan_seconds or not self._is_ours():
            return
        page = list(islice(self._store.list(after=self._listed_to), _LISTED))
        self._listed_to = page[-1].key if len(page) == _LISTED else ""
        before = utc_now() - timedelta(seconds=self._settings.orphan_seconds)
        old = [parse_key(one.key) for one in page if one.modified_at < before]
        found: list[KeyParts] = [parts for parts in old if parts is not None]
        if found and (marked := self._database.transact(lambda c: cleaning.mark_orphans(c, found))):
            _log.info("orphans.marked", objects=marked)

    def _is_ours(self) -> bool:
        """Whether this store is this database's: who shares a bucket with another installation must not tidy it."""
        with self._database.read() as connection:
            mine = cleaning.installation(connection).encode()
        self._store.put(OWNER_KEY, mine, "text/plain; charset=utf-8", if_absent=True)
        is_ours = self._store.get(OWNER_KEY) == mine
        if not is_ours:
            _log.error("store.of_another_installation", key=OWNER_KEY)
        return is_ours

    def _remove_marked(self) -> int:
        """Everything that is marked. What cannot be removed holds up nothing behind it; after a few of these the round
        ends, and the next one goes on from there.
        """
        removed = failures = 0
        while keys := self._marked_keys(self._removed_to):
            for self._removed_to in keys:
                try:
                    removed += self._remove(self._removed_to)
                except Unavailable:
                    raise
                except Exception as error:  # the edge of one object
                    _log.warning("object.not_removed", key=self._removed_to, error=type(error).__name__)
                    failures += 1
                    if failures == _MOST_FAILURES:
                        return removed
        self._removed_to = ""
        if removed:
            _log.info("objects.removed", objects=removed)
        return removed

    def _marked_keys(self, after: str) -> list[str]:
        with self._database.read() as connection:
            return cleaning.marked_keys(connection, after)

    def _remove(self, key: str) -> bool:
        return self._database.transact(lambda connection: cleaning.remove_marked(connection, key, self._delete))

    def _delete(self, key: str) -> None:
        self._store.delete(key)
        failpoints.hit("cleaner.deleting")
