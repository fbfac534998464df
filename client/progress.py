"""A job's progress in the terminal: a live bar for a person, a line per change where there is no real terminal."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

from client.job import Job


@contextmanager
def shown_progress(console: Console, name: str) -> Iterator[Callable[[Job], None]]:
    """Within the block, every job given to the function is shown under `name`."""
    if console.is_terminal and not console.is_dumb_terminal:
        with _live(console, name) as show:
            yield show
    else:
        yield _LineByLine(console, name)


@contextmanager
def _live(console: Console, name: str) -> Iterator[Callable[[Job], None]]:
    columns = TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeElapsedColumn()
    with Progress(*columns, console=console) as progress:
        bar = progress.add_task(f"{name}: handed in", total=1.0)

        def show(job: Job) -> None:
            progress.update(bar, description=f"{name}: {_describe(job)}", completed=_value(job))

        yield show


class _LineByLine:
    def __init__(self, console: Console, name: str) -> None:
        self._console = console
        self._name = name
        self._last = ""

    def __call__(self, job: Job) -> None:
        line = f"{self._name}: {_describe(job)}"
        if line != self._last:
            self._console.print(line, markup=False, highlight=False)
        self._last = line


def _describe(job: Job) -> str:
    if job.is_finished or job.status == "queued":
        return job.status
    stage = str(job.raw.get("stage") or job.status)
    progress = job.progress
    return f"{stage} {progress.step}/{progress.steps}" if progress.steps else stage


def _value(job: Job) -> float:
    return 1.0 if job.status == "succeeded" else job.progress.value
