"""A job's progress in the terminal: a live bar for a person, a line per change where there is no real terminal."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

from client.job import Job

_MINUTE: Final = 60
_HOUR: Final = 3600
_LONGEST_LABEL: Final = 20


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
    label = f"{name}: "
    if len(name) > _LONGEST_LABEL:  # on one line with it the bar would have no room
        console.print(name, markup=False, highlight=False, soft_wrap=True)
        label = ""
    with Progress(*columns, console=console) as progress:
        bar = progress.add_task(escape(f"{label}handed in"), total=1.0)

        def show(job: Job) -> None:
            text = escape(f"{label}{describe(job)}{describe_outlook(job)}")
            progress.update(bar, description=text, completed=_value(job))

        yield show


class _LineByLine:
    def __init__(self, console: Console, name: str) -> None:
        self._console = console
        self._name = name
        self._last = ""

    def __call__(self, job: Job) -> None:
        said = describe(job)
        if said != self._last:  # a guess that moves is no news
            line = f"{self._name}: {said}{describe_outlook(job)}"
            self._console.print(line, markup=False, highlight=False, soft_wrap=True)
        self._last = said


def describe(job: Job) -> str:
    """Where the job is: `queued, 3 before it`, `denoising 5/10`, `succeeded`."""
    if job.status == "queued":
        return f"queued{_place(job)}"
    stage, progress = job.raw.get("stage"), job.progress
    if job.is_finished or not stage:
        return job.status
    return f"{stage} {progress.step}/{progress.steps}" if progress.steps else str(stage)


def describe_outlook(job: Job) -> str:
    """How long it will take, as far as the server guesses: `, starts in 40 s`, `, 12 s left`; else empty."""
    if job.is_finished:
        return ""
    if job.status == "queued":
        start = (job.raw.get("queue") or {}).get("eta_seconds")
        return "" if start is None else f", starts in {describe_duration(start)}"
    left = job.progress.eta_seconds
    return "" if left is None else f", {describe_duration(left)} left"


def _place(job: Job) -> str:
    queue = job.raw.get("queue") or {}
    position = queue.get("position")
    if position is None:
        return ""
    if queue.get("is_lower_bound"):
        return f", at least {position} before it"
    return f", {position} before it" if position else ", next"


def describe_count(number: int, noun: str) -> str:
    """`1 picture`, `2 pictures`."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def describe_duration(seconds: float) -> str:
    """`12 s`, `3 min`, `1.5 h`."""
    if seconds < 1:
        return "less than 1 s"
    if seconds < _MINUTE:
        return f"{seconds:.0f} s"
    if seconds < _HOUR:
        return f"{seconds / _MINUTE:.0f} min"
    return f"{seconds / _HOUR:.1f} h"


def _value(job: Job) -> float:
    return 1.0 if job.status == "succeeded" else job.progress.value
