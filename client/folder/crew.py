"""Threads that do many small things at once, of which the first failure stops all."""

from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from queue import SimpleQueue
from types import TracebackType
from typing import Self, TypeVar

from client.folder.errors import Stopped
from client.folder.patience import Patience

Item = TypeVar("Item")


class Crew:
    """So many threads, for a block. Leaving it with an exception stops what runs and forgets what waits."""

    def __init__(self, size: int, patience: Patience) -> None:
        self._patience = patience
        self._pool = ThreadPoolExecutor(size, thread_name_prefix="darkroom-batch")
        self._ended: SimpleQueue[Future[None]] = SimpleQueue()
        self._under_way = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if error is not None:
            self._patience.stop()
        self._pool.shutdown(wait=True, cancel_futures=True)

    def give(self, work: Callable[[Item], None], items: Iterable[Item]) -> None:
        """Have `work` done for each item; returns at once."""
        for item in items:
            self._under_way += 1
            self._pool.submit(work, item).add_done_callback(self._ended.put)

    def check(self) -> None:
        """Raise what the work has raised so far."""
        while not self._ended.empty():
            self._collect()

    def finish(self) -> None:
        """Return when all is done. Raises what the work raises, the first of it."""
        while self._under_way:
            self._collect()

    def _collect(self) -> None:
        self._under_way -= 1
        error = self._ended.get().exception()
        # What merely was stopped is not the reason, which comes after it.
        if error is not None and not (isinstance(error, Stopped) and self._under_way):
            raise error
