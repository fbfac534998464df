"""`darkroom webhooks`, `deliveries`, `redeliver`: who is told of jobs, and what became of it."""

import itertools
import json
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from client.commands.failing import Failure
from client.commands.options import LOCAL_SERVER, Json, Key, Url, open_server
from client.webhook_endpoints import Delivery, Webhook

Secret = Annotated[
    str | None, typer.Option(metavar="whsec_…", help="A secret of yours; default: the server makes one.")
]
OfJob = Annotated[str | None, typer.Option("--job", metavar="JOB_ID", help="Only those of this job.")]
OfWebhook = Annotated[str | None, typer.Option("--webhook", metavar="ID", help="Only those for this endpoint.")]

app = typer.Typer()
endpoints = typer.Typer(no_args_is_help=True, help="Endpoints that are told when jobs end.")
_ID_WIDTH = 38
_EVENT_WIDTH = 13
_STATUS_WIDTH = 9
_console = Console()
_notes = Console(stderr=True)


@endpoints.command()
def create(
    address: Annotated[str, typer.Argument(metavar="ADDRESS", help="Where to tell, an https address.")],
    event: Annotated[
        list[str] | None, typer.Option(help="job.succeeded, job.failed, …, one each; default: every end.")
    ] = None,
    secret: Secret = None,
    description: Annotated[str | None, typer.Option(help="For people.")] = None,
    url: Url = LOCAL_SERVER,
    key: Key = None,
    as_json: Json = False,
) -> None:
    """Register an endpoint; print its id and, this once, the secret that its deliveries are signed with."""
    with open_server(url, key) as server:
        made = server.webhooks.create(address, events=event or None, secret=secret, description=description)
    _show_secret(made, as_json=as_json)


@endpoints.command(name="list")
def list_endpoints(url: Url = LOCAL_SERVER, key: Key = None, as_json: Json = False) -> None:
    """List the endpoints, newest first."""
    with open_server(url, key) as server:
        found = list(server.webhooks.list())
    if as_json:
        print(json.dumps([one.raw for one in found], indent=2))
        return
    table = Table(box=None)
    for heading in ("webhook", "status"):
        table.add_column(heading, no_wrap=True)
    table.add_column("url and events", overflow="fold")
    for one in found:
        reason = one.raw.get("disabled_reason")
        status = f"{one.status} ({reason})" if reason else one.status
        table.add_row(one.id, status, f"{escape(one.url)}\n{', '.join(one.events)}")
    _console.print(table)


@endpoints.command()
def delete(webhook_id: str, url: Url = LOCAL_SERVER, key: Key = None) -> None:
    """Forget an endpoint and its deliveries."""
    with open_server(url, key) as server:
        server.webhooks.delete(webhook_id)
    print(f"{webhook_id} deleted")


@endpoints.command()
def rotate(
    webhook_id: str, secret: Secret = None, url: Url = LOCAL_SERVER, key: Key = None, as_json: Json = False
) -> None:
    """Give an endpoint a new secret and print it, this once; the old one signs too for 24 hours."""
    with open_server(url, key) as server:
        _show_secret(server.webhooks.rotate(webhook_id, secret=secret), as_json=as_json)


@endpoints.command(name="test")
def send_test(webhook_id: str, url: Url = LOCAL_SERVER, key: Key = None, as_json: Json = False) -> None:
    """Send an endpoint a webhook.test."""
    with open_server(url, key) as server:
        _show_delivery(server.webhooks.test(webhook_id), as_json=as_json)


@endpoints.command()
def enable(webhook_id: str, url: Url = LOCAL_SERVER, key: Key = None) -> None:
    """Let deliveries go to an endpoint again that was disabled."""
    with open_server(url, key) as server:
        one = server.webhooks.enable(webhook_id)
    print(f"{one.id} {one.status}")


@app.command()
def deliveries(
    job: OfJob = None,
    webhook: OfWebhook = None,
    failed: Annotated[bool, typer.Option("--failed", help="Only those that failed for good.")] = False,
    limit: Annotated[int, typer.Option(min=1, help="How many, newest first.")] = 20,
    url: Url = LOCAL_SERVER,
    key: Key = None,
    as_json: Json = False,
) -> None:
    """List what webhooks were told or will be, newest first, with the last attempt of each."""
    with open_server(url, key) as server:
        every = server.deliveries(job=job, webhook=webhook, status="failed" if failed else None)
        found = list(itertools.islice(every, limit))
    if as_json:
        print(json.dumps([one.raw for one in found], indent=2))
        return
    table = Table(box=None)
    for heading, width in (("delivery", _ID_WIDTH), ("event", _EVENT_WIDTH), ("status", _STATUS_WIDTH)):
        table.add_column(heading, min_width=width, no_wrap=True)
    table.add_column("tries", overflow="fold")
    for one in found:
        tries = f"{one.raw.get('attempt')} {_last_attempt(one)}"
        table.add_row(one.id, one.event, one.status, escape(tries.strip()))
        if one.raw.get("job"):
            table.add_row(f"  {one.raw['job']}")
    _console.print(table)


@app.command()
def redeliver(
    delivery_id: Annotated[str | None, typer.Argument(help="One delivery, whatever became of it.")] = None,
    failed: Annotated[bool, typer.Option("--failed", help="Every one that failed for good.")] = False,
    job: OfJob = None,
    webhook: OfWebhook = None,
    url: Url = LOCAL_SERVER,
    key: Key = None,
) -> None:
    """Send a delivery once more, or all that failed."""
    if (delivery_id is None) is not failed:
        raise Failure("give the id of a delivery, or --failed", exit_code=2)
    if delivery_id is not None and (job or webhook):
        raise Failure("--job and --webhook go with --failed", exit_code=2)
    with open_server(url, key) as server:
        if delivery_id is None:
            print(f"{server.redeliver_failed(job=job, webhook=webhook)} on their way")
        else:
            _show_delivery(server.redeliver(delivery_id), as_json=False)


def _show_secret(webhook: Webhook, *, as_json: bool) -> None:
    if as_json:
        print(json.dumps(webhook.raw, indent=2))
        return
    _notes.print("This secret is shown only now; the server keeps it encrypted.")
    print(f"{webhook.id} {webhook.secret}")


def _show_delivery(delivery: Delivery, *, as_json: bool) -> None:
    print(json.dumps(delivery.raw, indent=2) if as_json else f"{delivery.id} {delivery.event} {delivery.status}")


def _last_attempt(delivery: Delivery) -> str:
    if not delivery.log:
        return ""
    last = delivery.log[-1]
    return str(last.get("status") or last.get("error") or "")
