"""`darkroom submit`, `status`, `cancel`, `jobs`: what a client does."""

import itertools
import json
import mimetypes
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from client.commands.failing import Failure
from client.commands.options import LOCAL_SERVER, Json, Key, Url, open_server, parse_size
from client.job import Job
from client.progress import shown_progress
from client.sdk import Darkroom

_INTERRUPTED = 130
_ID_WIDTH = 36

app = typer.Typer()
_console = Console()
_notes = Console(stderr=True)


@app.command()
def submit(
    prompt: Annotated[str, typer.Option(help="What the picture should become.")],
    file: Annotated[
        Path | None, typer.Argument(exists=True, dir_okay=False, readable=True, help="The picture; none for txt2img.")
    ] = None,
    model: Annotated[str | None, typer.Option(help="Model of the catalogue; default: the server's.")] = None,
    negative_prompt: Annotated[str | None, typer.Option(help="What it should not become.")] = None,
    strength: Annotated[float | None, typer.Option(help="How much may change, above 0 up to 1.")] = None,
    seed: Annotated[int | None, typer.Option(help="The same seed gives the same picture.")] = None,
    steps: Annotated[int | None, typer.Option(help="Denoising steps.")] = None,
    guidance: Annotated[float | None, typer.Option(help="How strictly the prompt is followed.")] = None,
    size: Annotated[str | None, typer.Option(help="WIDTHxHEIGHT in pixels; default: fitted to the model.")] = None,
    out: Annotated[Path, typer.Option(help="Folder for the results.")] = Path("out"),
    wait: Annotated[bool, typer.Option("--wait/--no-wait", help="Wait and fetch the results.")] = True,
    url: Url = LOCAL_SERVER,
    key: Key = None,
) -> None:
    """Hand in a picture and a prompt; wait for the result and save it."""
    width, height = parse_size(size)
    params: dict[str, Any] = {
        "model": model,
        "negative_prompt": negative_prompt,
        "strength": strength,
        "seed": seed,
        "num_inference_steps": steps,
        "guidance_scale": guidance,
        "width": width,
        "height": height,
    }
    with open_server(url, key) as server:
        job = server.submit(prompt=prompt, image=file, **params)
        if wait:
            _fetch(_follow(server, job), out)
        else:
            print(job.id)


@app.command()
def status(job_id: str, url: Url = LOCAL_SERVER, key: Key = None, as_json: Json = False) -> None:
    """Show one job."""
    with open_server(url, key) as server:
        _show(server.job(job_id), as_json=as_json)


@app.command()
def cancel(job_id: str, url: Url = LOCAL_SERVER, key: Key = None, as_json: Json = False) -> None:
    """Cancel a job; a finished one stays as it is."""
    with open_server(url, key) as server:
        _show(server.cancel(job_id), as_json=as_json)


@app.command()
def jobs(
    limit: Annotated[int, typer.Option(min=1, help="How many, newest first.")] = 20,
    status: Annotated[str | None, typer.Option(help="Only those with this status.")] = None,
    url: Url = LOCAL_SERVER,
    key: Key = None,
) -> None:
    """List jobs, newest first."""
    table = Table(box=None)
    table.add_column("job", min_width=_ID_WIDTH, no_wrap=True)
    for heading in ("status", "model", "created", "progress"):
        table.add_column(heading)
    with open_server(url, key) as server:
        for job in itertools.islice(server.jobs(**({"status": status} if status else {})), limit):
            row = (job.id, job.status, str(job.raw.get("model")), str(job.raw.get("created_at")))
            table.add_row(*row, f"{job.progress.value:.0%}")
    _console.print(table)


def _follow(server: Darkroom, job: Job) -> Job:
    try:
        with shown_progress(_notes, job.id) as show:
            return server.wait(job.id, on_progress=show)
    except KeyboardInterrupt:
        _notes.print(f"{job.id} goes on: darkroom status {job.id}, or darkroom cancel {job.id}", markup=False)
        raise typer.Exit(_INTERRUPTED) from None


def _fetch(job: Job, folder: Path) -> None:
    if job.status != "succeeded":
        raise Failure(_outcome(job))
    folder.mkdir(parents=True, exist_ok=True)
    for image in job.images:
        ending = mimetypes.guess_extension(image.content_type or "") or ".png"
        print(job.download(image.index, folder / f"{job.id}-{image.index}{ending}"))


def _show(job: Job, *, as_json: bool) -> None:
    print(json.dumps(job.raw, indent=2) if as_json else _outcome(job))


def _outcome(job: Job) -> str:
    line = f"{job.id} {job.status}"
    if job.error:
        return f"{line}: {job.error.get('detail')} ({job.error.get('code')})"
    if job.is_finished:
        return f"{line}, {len(job.images)} images" if job.images else line
    return f"{line}, {job.progress.value:.0%}"
