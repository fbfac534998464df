"""The dispatcher of webhooks: one loop per courier that takes what is due and hands it to a pool of threads.

Woken by a doorbell, by a call that has ended, and once a second (± 20 %).
"""

import random
import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Final

import structlog

from common.clock import monotonic_seconds
from common.db.dispatching import Taken, take
from common.db.due_groups import Waiting, find_few_groups, find_groups
from common.domain.dispatching import Calls, Group, Limits, Name, choose_groups
from common.domain.errors import Unavailable
from courier.deliver import Call, deliver
from courier.tools import Tools

_REMEMBERED_TURNS: Final = 10_000
_MOST_PAGES: Final = 20

_log = structlog.get_logger()


class Dispatcher:
    """Sends deliveries as long as there are any and slots are free. Its methods may be called from any thread."""

    def __init__(self, tools: Tools) -> None:
        self._tools = tools
        self._settings = tools.settings
        self._limits = Limits(slots=self._settings.webhook_threads, per_host=self._settings.webhooks_per_host)
        self._calls = ThreadPoolExecutor(self._settings.webhook_threads, "webhook")
        self._in_hand: set[Future[None]] = set()
        self._lock = threading.Lock()
        self._bell = threading.Event()
        self._stop = threading.Event()
        self._walked_to: Name | None = None
        self._turns: OrderedDict[Name, int] = OrderedDict()
        self._turn = 0
        self._thread = threading.Thread(target=self._run, name="dispatcher", daemon=True)

    def start(self) -> None:
        """Begin to send."""
        self._thread.start()

    def ring(self) -> None:
        """There may be something to send."""
        self._bell.set()

    def stop(self) -> None:
        """Take nothing more. Returns at once; `join` waits for the calls in hand."""
        self._stop.set()
        self._bell.set()

    def join(self, seconds: float) -> None:
        """Wait for the end of the calls in hand, at most this long."""
        ends_at = monotonic_seconds() + seconds
        if self._thread.is_alive():
            self._thread.join(max(0.0, seconds))
        with self._lock:
            calls = list(self._in_hand)
        for call in calls:
            try:
                call.exception(max(0.0, ends_at - monotonic_seconds()))
            except TimeoutError:
                _log.warning("delivery.left_behind")
        self._calls.shutdown(wait=False)

    def run_once(self) -> int:
        """Take what is due and may be sent now, and begin to send it. Returns how many were taken.

        Looks at every group with something due; when that is much, page after page until the slots are full. Raises
        `Unavailable`.
        """
        free = self._free()
        if self._stop.is_set() or free <= 0:
            return 0
        with self._tools.database.read() as connection:
            groups = find_few_groups(connection)
        if groups is None:
            return self._walk()
        return self._take(groups, free) if groups else 0

    def _walk(self) -> int:
        """Once around, from behind the group served last: else those of later pages would hardly ever get their turn,
        because the first page takes all calls that may be to failing ones.
        """
        taken, at, has_wrapped = 0, self._walked_to, self._walked_to is None
        for _ in range(_MOST_PAGES):
            if self._stop.is_set() or (free := self._free()) <= 0:
                break
            page = self._look(at)
            at = page.following
            if page.groups:
                taken += self._take(page.groups, free)
            if at is None and has_wrapped:
                break
            has_wrapped = has_wrapped or at is None
        if not taken and at is not None:
            self._walked_to = at  # the next look goes on where this one came to its end
        return taken

    def _look(self, after: Name | None) -> Waiting:
        with self._tools.database.read() as connection:
            return find_groups(connection, after)

    def _take(self, groups: Sequence[Group], free: int) -> int:
        lease_seconds = self._settings.webhook_timeout_seconds + self._settings.lease_seconds

        def choose(calls: Calls) -> Mapping[Name, int]:
            return choose_groups(groups, calls, self._limits, free, self._turns)

        worker_id = self._tools.worker_id
        taken = self._tools.database.transact(lambda connection: take(connection, worker_id, lease_seconds, choose))
        started = monotonic_seconds()
        for delivery in taken:
            self._remember(delivery)
            self._begin(Call(delivery, started))
        return len(taken)

    def _begin(self, call: Call) -> None:
        future = self._calls.submit(deliver, self._tools, call)
        with self._lock:
            self._in_hand.add(future)
        future.add_done_callback(self._end)

    def _end(self, future: "Future[None]") -> None:
        with self._lock:
            self._in_hand.discard(future)
        self._bell.set()

    def _free(self) -> int:
        with self._lock:
            return self._settings.webhook_threads - len(self._in_hand)

    def _remember(self, delivery: Taken) -> None:
        """Whose turn it was."""
        self._walked_to = delivery.group
        self._turn += 1
        self._turns[delivery.group] = self._turn
        self._turns.move_to_end(delivery.group)
        if len(self._turns) > _REMEMBERED_TURNS:
            self._turns.popitem(last=False)

    def _run(self) -> None:
        while not self._stop.is_set():
            self._bell.clear()  # before the look: what rings during it is looked for again
            if self._stop.is_set():
                return  # its own bell may just have been cleared
            try:
                taken = self.run_once()
            except Unavailable as error:
                _log.warning("dispatcher.unavailable", detail=error.detail)
                taken = 0
            except Exception as error:  # the edge of one look
                _log.error("dispatcher.stumbled", exc_info=error)
                taken = 0
            if not taken:
                self._bell.wait(self._settings.poll_seconds * random.uniform(0.8, 1.2))  # noqa: S311 - spreads the polls
