"""How a run shows how far it is: one line that moves for a person, a line now and then where there is no terminal."""

import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Final, Self

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

from client.batch import Batch
from client.plain_text import make_plain
from client.progress import describe_duration

_LINE_SECONDS: Final = 5.0
# A bar that has been full once stops its clock for good.
_NEARLY_FULL: Final = 0.9999


class Display:
    """Shows uploads, then the batch and what of it is written, within a block. Any thread may call it."""

    def __init__(self, console: Console, clock: Callable[[], float] = time.monotonic) -> None:
        self._console = console
        self._clock = clock
        self._lock = threading.Lock()
        self._bar = _live(console) if console.is_terminal and not console.is_dumb_terminal else None
        self._task = None if self._bar is None else self._bar.add_task("", total=1.0)
        self._uploaded = self._files = self._written = self._ahead = 0
        self._batch: Batch | None = None
        self._said = ""
        self._said_at = float("-inf")

    def __enter__(self) -> Self:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def say(self, text: str) -> None:
        """A line of its own."""
        self._console.print(make_plain(text), markup=False, highlight=False, soft_wrap=True)

    def show_uploads(self, done: int, files: int) -> None:
        """So many of the files are with the server."""
        with self._lock:
            self._uploaded, self._files = done, files
        self._show()

    def count_upload(self) -> None:
        """One more file is with the server, or refused."""
        with self._lock:
            self._uploaded += 1
        self._show(now=self._uploaded == self._files)

    def show_batch(self, batch: Batch, *, failed_before: int, written: int) -> None:
        """The batch as it is now; so many files never came into it, and so many results are written."""
        with self._lock:
            self._batch, self._ahead, self._written = batch, failed_before, written
        self._show(now=batch.is_finished)

    def count_written(self) -> None:
        """One more result is written."""
        with self._lock:
            self._written += 1
        self._show()

    def _show(self, *, now: bool = False) -> None:
        text, value = self._describe()
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, description=escape(make_plain(text)), completed=min(value, _NEARLY_FULL))
            return
        with self._lock:
            is_due = now or self._clock() - self._said_at >= _LINE_SECONDS
            if text == self._said or not is_due:
                return
            self._said, self._said_at = text, self._clock()
        self.say(text)

    def _describe(self) -> tuple[str, float]:
        """The words, and the fraction that is done."""
        if self._batch is None:
            return f"uploaded {self._uploaded} of {self._files}", self._uploaded / max(1, self._files)
        counts, failed = self._batch.counts, self._ahead + self._batch.counts.failed
        total = counts.total + self._ahead
        parts = [self._batch.status] if self._batch.status != "running" else []
        parts += [f"{counts.queued} queued", f"{counts.running} running", f"{counts.succeeded} developed"]
        parts += [f"{self._written} of {total} fetched"]
        parts += [f"{failed} failed"] if failed else []
        parts += [f"{counts.canceled} canceled"] if counts.canceled else []
        left = self._batch.eta_seconds
        parts += [f"{describe_duration(left)} left"] if left is not None and not self._batch.is_finished else []
        return ", ".join(parts), (self._written + failed + counts.canceled) / max(1, total)


def _live(console: Console) -> Progress:
    columns = TextColumn("{task.description}"), BarColumn(bar_width=20), TaskProgressColumn(), TimeElapsedColumn()
    return Progress(*columns, console=console)
