"""`darkroom batches`: look at batches and change them."""

import itertools
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
from httpx import codes
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from client.batch import Batch
from client.commands.failing import Failure
from client.commands.options import LOCAL_SERVER, Json, Key, Overrides, Url, open_server, parse_overrides
from client.errors import DarkroomAPIError
from client.plain_text import make_plain
from client.progress import describe_duration

_ID_WIDTH = 36

app = typer.Typer(no_args_is_help=True, help="Batches: look at them, pause, resume, cancel, retry, fetch.")
_console = Console()


@app.command(name="list")
def list_batches(
    limit: Annotated[int, typer.Option(min=1, help="How many, newest first.")] = 20,
    status: Annotated[str | None, typer.Option(help="Only those with this status.")] = None,
    url: Url = LOCAL_SERVER,
    key: Key = None,
) -> None:
    """List batches, newest first."""
    table = Table(box=None)
    table.add_column("batch", min_width=_ID_WIDTH, no_wrap=True)
    for heading in ("status", "done", "failed", "total", "name"):
        table.add_column(heading)
    with open_server(url, key) as server:
        for one in itertools.islice(server.batches.list(status=status), limit):
            counts = one.counts
            row = (str(number) for number in (counts.succeeded, counts.failed, counts.total))
            table.add_row(one.id, one.status, *row, escape(make_plain(one.raw.get("name") or "")))
    _console.print(table)


@app.command()
def show(batch_id: str, url: Url = LOCAL_SERVER, key: Key = None, as_json: Json = False) -> None:
    """Show one batch."""
    with open_server(url, key) as server:
        _show(server.batches.get(batch_id), as_json=as_json)


@app.command()
def pause(batch_id: str, url: Url = LOCAL_SERVER, key: Key = None, as_json: Json = False) -> None:
    """Start no more of its jobs; those that run go on."""
    with open_server(url, key) as server:
        _show(server.batches.pause(batch_id), as_json=as_json)


@app.command()
def resume(batch_id: str, url: Url = LOCAL_SERVER, key: Key = None, as_json: Json = False) -> None:
    """Go on with a paused batch."""
    with open_server(url, key) as server:
        _show(server.batches.resume(batch_id), as_json=as_json)


@app.command()
def cancel(batch_id: str, url: Url = LOCAL_SERVER, key: Key = None, as_json: Json = False) -> None:
    """Cancel a batch; what is finished stays."""
    with open_server(url, key) as server:
        _show(server.batches.cancel(batch_id), as_json=as_json)


@app.command()
def retry(
    batch_id: str,
    overrides: Overrides = None,
    include_canceled: Annotated[bool, typer.Option("--canceled", help="Also what was canceled.")] = False,
    on_invalid: Annotated[
        str | None, typer.Option(help="skip lines that cannot be tried again (the default), or reject the batch.")
    ] = None,
    url: Url = LOCAL_SERVER,
    key: Key = None,
    as_json: Json = False,
) -> None:
    """Make a new batch of what failed in a finished one."""
    fields = parse_overrides(overrides)
    with open_server(url, key) as server:
        try:
            made = server.batches.retry(
                batch_id, overrides=fields, include_canceled=include_canceled, on_invalid=on_invalid
            )
        except DarkroomAPIError as error:
            if error.status == codes.CONFLICT and not include_canceled and server.batches.get(batch_id).counts.canceled:
                raise Failure(f"{error.describe()}; what was canceled is tried again with --canceled") from error
            raise
        _show(made, as_json=as_json)


@app.command()
def results(batch_id: str, url: Url = LOCAL_SERVER, key: Key = None) -> None:
    """Print what became of each line, as JSON Lines."""
    with open_server(url, key) as server:
        for result in server.batches.results(batch_id):
            print(json.dumps(result.raw))


@app.command()
def archive(
    batch_id: str,
    file: Annotated[Path, typer.Argument(dir_okay=False, metavar="FILE.zip")],
    url: Url = LOCAL_SERVER,
    key: Key = None,
) -> None:
    """Save every finished picture as one zip file."""
    with open_server(url, key) as server:
        print(server.batches.archive(batch_id, file))


def _show(batch: Batch, *, as_json: bool) -> None:
    print(json.dumps(batch.raw, indent=2) if as_json else _describe(batch))


def _describe(batch: Batch) -> str:
    """The batch in one line, and its wrong lines."""
    counts = batch.counts
    parts = {"queued": counts.queued, "running": counts.running, "done": counts.succeeded}
    rest = {"failed": counts.failed, "canceled": counts.canceled}
    numbers = [f"{number} {name}" for name, number in parts.items()]
    numbers += [f"{number} {name}" for name, number in rest.items() if number]
    left = "" if batch.eta_seconds is None else f", {describe_duration(batch.eta_seconds)} left"
    wrong = "".join(f"\n  {_describe_error(one)}" for one in batch.errors)
    return f"{batch.id} {batch.status}: {', '.join(numbers)}{left}{wrong}"


def _describe_error(error: Mapping[str, Any]) -> str:
    line = None if error.get("line") is None else f"line {error['line']}"
    where = " ".join(part for part in (line, error.get("pointer")) if part)
    return make_plain(f"{where}: {error.get('detail')}" if where else error.get("detail"))
