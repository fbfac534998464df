"""`darkroom follow`, and what every command does that waits for a job: show how it goes, fetch what it made."""

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from rich.console import Console

from client.commands.failing import Failure
from client.commands.options import LOCAL_SERVER, Key, Url, open_server
from client.errors import ClientError
from client.job import Job
from client.plain_text import make_plain
from client.progress import shown_progress
from client.sdk import Darkroom

INTERRUPTED: Final = 130

_ENDINGS: Final = {"image/png": ".png", "image/jpeg": ".jpg", "image/webp": ".webp"}
_PREVIEW_SECONDS: Final = 0.5

Out = Annotated[Path, typer.Option(help="Folder for the results.")]
Follow = Annotated[
    bool, typer.Option("--follow/--no-follow", help="Show live how it goes while waiting; --no-follow waits quietly.")
]
Preview = Annotated[
    Path | None,
    typer.Option(dir_okay=False, metavar="FILE.jpg", help="Keep the newest rough picture there while following."),
]

app = typer.Typer()
_notes = Console(stderr=True)


@app.command()
def follow(
    job_id: str,
    out: Out = Path("out"),
    preview: Preview = None,
    url: Url = LOCAL_SERVER,
    key: Key = None,
) -> None:
    """Show live how a job goes, until it is finished; save its results."""
    with open_server(url, key) as server:
        fetch_results(server, follow_job(server, server.job(job_id), preview), out)


def follow_job(server: Darkroom, job: Job, preview: Path | None = None, *, quietly: bool = False) -> Job:
    """The finished job, its progress shown unless `quietly`; Ctrl-C ends the command and says how to come back."""
    try:
        if quietly:
            return job.wait()
        with shown_progress(_notes, job.id) as show:
            return job.wait(on_progress=show if preview is None else _with_preview(server, show, preview))
    except KeyboardInterrupt:
        _notes.print(f"{job.id} goes on: darkroom follow {job.id}, or darkroom cancel {job.id}", markup=False)
        raise typer.Exit(INTERRUPTED) from None


def fetch_results(server: Darkroom, job: Job, folder: Path) -> None:
    """Save the pictures of a finished job in the folder and print their names; raises `Failure` if there are none."""
    if job.status != "succeeded":
        raise Failure(describe_outcome(job))
    folder.mkdir(parents=True, exist_ok=True)
    for image in job.images:
        print(job.download(image.index, folder / f"{job.id}-{image.index}{_ending(image.content_type)}"))
    grid = job.raw.get("grid")
    if grid:
        print(server.fetch_grid(job.id, folder / f"{job.id}-grid{_ending(grid.get('content_type'))}"))
    for warning in job.raw.get("warnings") or ():
        _notes.print(_described(warning), markup=False, highlight=False)


def describe_outcome(job: Job) -> str:
    """The job in one line."""
    line = f"{job.id} {job.status}"
    if job.error:
        return make_plain(f"{line}: {job.error.get('detail')} ({job.error.get('code')})")
    if job.is_finished:
        return f"{line}, {len(job.images)} images" if job.images else line
    return f"{line}, {job.progress.value:.0%}"


def _with_preview(server: Darkroom, show: Callable[[Job], object], path: Path) -> Callable[[Job], None]:
    """`show`, and twice a second the newest rough picture into the file, which is whole at every moment."""
    looked_at = 0.0

    def show_and_keep(job: Job) -> None:
        nonlocal looked_at
        show(job)
        if job.status != "running" or time.monotonic() < looked_at + _PREVIEW_SECONDS:
            return
        looked_at = time.monotonic()
        try:
            picture = server.preview(job.id)
        except ClientError:  # a picture that cannot be had now is no reason to stop following
            return
        if picture:
            unfinished = path.with_name(f".{path.name}.part")
            unfinished.write_bytes(picture)
            os.replace(unfinished, path)

    return show_and_keep


def _ending(content_type: str | None) -> str:
    return _ENDINGS.get(content_type or "", ".png")


def _described(warning: dict[str, Any]) -> str:
    detail = warning.get("detail")
    return make_plain(f"warning: {warning.get('code')} at {warning.get('pointer')}" + (f": {detail}" if detail else ""))
