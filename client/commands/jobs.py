"""`darkroom submit`, `status`, `cancel`, `retry`, `edit`, `delete`, `jobs`: what a client does."""

import itertools
import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from client.commands import job_options
from client.commands.follow import Follow, Out, Preview, describe_outcome, fetch_results, follow_job
from client.commands.job_request import build_request, send_files
from client.commands.options import (
    LOCAL_SERVER,
    Json,
    Key,
    Overrides,
    Url,
    open_server,
    parse_assignments,
    parse_overrides,
)
from client.job import Job
from client.sdk import Darkroom

_ID_WIDTH = 36

Wait = Annotated[bool, typer.Option("--wait/--no-wait", help="Wait and fetch the results.")]

app = typer.Typer()
_console = Console()


@app.command()
def submit(
    context: typer.Context,
    file: job_options.File = None,
    prompt: job_options.Prompt = None,
    request: job_options.Request = None,
    image_url: job_options.ImageUrl = None,
    model: job_options.Model = None,
    negative_prompt: job_options.NegativePrompt = None,
    strength: job_options.Strength = None,
    seed: job_options.Seed = None,
    num_inference_steps: job_options.Steps = None,
    steps_mode: job_options.StepsMode = None,
    guidance_scale: job_options.Guidance = None,
    scheduler: job_options.Scheduler = None,
    num_images: job_options.NumImages = None,
    size: job_options.Size = None,
    resize: job_options.Resize = None,
    mask: job_options.Mask = None,
    mask_mode: job_options.MaskMode = None,
    mask_blur: job_options.MaskBlur = None,
    mask_grow: job_options.MaskGrow = None,
    inpaint_area: job_options.InpaintArea = None,
    format: job_options.Format = None,  # noqa: A002 - the word of the API
    quality: job_options.Quality = None,
    grid: job_options.Grid = False,
    out: Out = Path("out"),
    wait: Wait = True,
    follow: Follow = True,
    preview: Preview = None,
    url: Url = LOCAL_SERVER,
    key: Key = None,
) -> None:
    """Hand in a picture and a prompt, or a request file; wait for the result and save it."""
    members = build_request(context.params)
    with open_server(url, key) as server:
        job = server.submit(**send_files(server, members))
        _see_through(server, job, out if wait else None, preview, quietly=not follow)


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
def retry(
    job_id: str,
    overrides: Overrides = None,
    out: Out = Path("out"),
    wait: Wait = True,
    follow: Follow = True,
    preview: Preview = None,
    url: Url = LOCAL_SERVER,
    key: Key = None,
) -> None:
    """Try a failed or canceled job again, as a new job; wait for the result and save it."""
    fields = parse_overrides(overrides)
    with open_server(url, key) as server:
        job = server.retry(job_id, **fields)
        _see_through(server, job, out if wait else None, preview, quietly=not follow)


@app.command()
def edit(
    job_id: str,
    priority: Annotated[str | None, typer.Option(help="high, normal or low.")] = None,
    tag: Annotated[list[str] | None, typer.Option(help="The new tags, one each; '' for none.")] = None,
    metadata: Annotated[
        list[str] | None, typer.Option(metavar="KEY=VALUE", help="The new metadata, one each; '' for none.")
    ] = None,
    url: Url = LOCAL_SERVER,
    key: Key = None,
    as_json: Json = False,
) -> None:
    """Change a job that is still queued."""
    if priority is None and not tag and not metadata:
        raise typer.BadParameter("give a --priority, --tag or --metadata")
    tags = [one for one in tag if one] if tag else None
    own = parse_assignments([one for one in metadata if one]) if metadata else None
    with open_server(url, key) as server:
        _show(server.edit(job_id, priority=priority, tags=tags, metadata=own), as_json=as_json)


@app.command()
def delete(job_id: str, url: Url = LOCAL_SERVER, key: Key = None) -> None:
    """Erase a job with its inputs, results and prompt, canceling it if need be. There is no way back."""
    with open_server(url, key) as server:
        server.delete(job_id)
    print(f"{job_id} erased")


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


def _see_through(server: Darkroom, job: Job, folder: Path | None, preview: Path | None, *, quietly: bool) -> None:
    """Wait for the job and save its results in this folder; without one only print its id."""
    if folder is None:
        print(job.id)
    else:
        fetch_results(server, follow_job(server, job, preview, quietly=quietly), folder)


def _show(job: Job, *, as_json: bool) -> None:
    print(json.dumps(job.raw, indent=2) if as_json else describe_outcome(job))
