"""`darkroom webhooks`, `deliveries`, `redeliver`: who is told of jobs, and what became of it."""

import itertools
import json
import textwrap
from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from client.commands.failing import Failure
from client.commands.options import LOCAL_SERVER, Json, Key, Url, open_server
from client.plain_text import make_plain
from client.webhook_endpoints import Delivery, Webhook
from common.domain.webhook_events import DEFAULT_EVENTS


class Status(StrEnum):
    """What may have become of a delivery."""

    PENDING = "pending"
    DELIVERED = "delivered"
    FAILED = "failed"
    DISABLED = "disabled"


Secret = Annotated[
    str | None, typer.Option(metavar="whsec_…", help="A secret of yours; default: the server makes one.")
]
OfJob = Annotated[str | None, typer.Option("--job", metavar="JOB_ID", help="Only those of this job.")]
OfWebhook = Annotated[str | None, typer.Option("--webhook", metavar="ID", help="Only those for this endpoint.")]

app = typer.Typer()
endpoints = typer.Typer(no_args_is_help=True, help="Endpoints that are told when jobs end.")
_ID_WIDTH = 38
_EVENT_WIDTH = 13
_STATUS_WIDTH = 10
_TRIES_WIDTH = 3
_MOMENT_WIDTH = 19
_CODE_WIDTH = 6
_MS_WIDTH = 5
_PADDING = 8  # of four columns
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
    for one in found:
        _show_webhook(one)
    if not found:
        _notes.print("There are no webhooks.")


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
    delivery_id: Annotated[str | None, typer.Argument(help="One delivery, with every attempt.")] = None,
    job: OfJob = None,
    webhook: OfWebhook = None,
    status: Annotated[Status | None, typer.Option(help="Only those with this status.")] = None,
    failed: Annotated[bool, typer.Option("--failed", help="Short for --status failed.")] = False,
    limit: Annotated[int, typer.Option(min=1, help="How many, newest first.")] = 20,
    url: Url = LOCAL_SERVER,
    key: Key = None,
    as_json: Json = False,
) -> None:
    """List what webhooks were told or will be, newest first, with the last attempt of each; or look at one."""
    if failed and status not in {None, Status.FAILED}:
        raise Failure("give --failed or --status, not both", exit_code=2)
    if delivery_id is not None and (job or webhook or status or failed):
        raise Failure("give the id of a delivery, or what the list should have", exit_code=2)
    with open_server(url, key) as server:
        if delivery_id is not None:
            _show_log(server.delivery(delivery_id), as_json=as_json)
            return
        every = server.deliveries(job=job, webhook=webhook, status=Status.FAILED if failed else status)
        found = list(itertools.islice(every, limit))
    if as_json:
        print(json.dumps([one.raw for one in found], indent=2))
        return
    table = Table(box=None)
    table.add_column("delivery", min_width=_ID_WIDTH, no_wrap=True)
    table.add_column("event", min_width=_EVENT_WIDTH, no_wrap=True)
    table.add_column("status", min_width=_STATUS_WIDTH)
    table.add_column("tries", min_width=_TRIES_WIDTH, overflow="fold")
    for one in found:
        tries = f"{one.raw.get('attempt')} {_last_attempt(one)}"
        subject = one.raw.get("job") or one.raw.get("batch")
        name = f"{one.id}\n  {subject}" if subject else one.id
        table.add_row(name, one.event, _outlook(one), escape(make_plain(tries.strip())))
    _console.print(table)


@app.command()
def redeliver(
    delivery_id: Annotated[str | None, typer.Argument(help="One delivery, whatever became of it.")] = None,
    failed: Annotated[bool, typer.Option("--failed", help="Every one that failed for good.")] = False,
    pending: Annotated[bool, typer.Option("--pending", help="At once, all that wait for their next attempt.")] = False,
    job: OfJob = None,
    webhook: OfWebhook = None,
    url: Url = LOCAL_SERVER,
    key: Key = None,
) -> None:
    """Send a delivery once more, or all that failed, or now what is to be tried again later."""
    if (delivery_id is not None) + failed + pending != 1:
        raise Failure("give the id of a delivery, --failed or --pending", exit_code=2)
    if delivery_id is not None and (job or webhook):
        raise Failure("--job and --webhook go with --failed and --pending", exit_code=2)
    with open_server(url, key) as server:
        if delivery_id is not None:
            _show_delivery(server.redeliver(delivery_id), as_json=False)
            return
        count = (server.redeliver_failed if failed else server.redeliver_pending)(job=job, webhook=webhook)
    hint = "; --pending sends at once what waits for its next attempt" if failed else ""
    print(f"{count} on their way" if count else f"nothing to send again{hint}")


def _show_secret(webhook: Webhook, *, as_json: bool) -> None:
    if as_json:
        print(json.dumps(webhook.raw, indent=2))
        return
    _notes.print("This secret is shown only now; the server keeps it encrypted.")
    print(f"{webhook.id} {webhook.secret}")


def _show_webhook(webhook: Webhook) -> None:
    """Its id and status, then everything of any length on lines of its own; the terminal breaks a long URL."""
    reason = webhook.raw.get("disabled_reason")
    is_default = set(webhook.events) == set(DEFAULT_EVENTS)
    _console.print(webhook.id, f"{webhook.status} ({reason})" if reason else webhook.status)
    _console.print(Text(f"  {make_plain(webhook.url)}"), soft_wrap=True)
    for text in ("every end" if is_default else ", ".join(webhook.events), make_plain(webhook.description)):
        for line in textwrap.wrap(text, _console.width, initial_indent="  ", subsequent_indent="  "):
            _console.print(Text(line))


def _show_log(delivery: Delivery, *, as_json: bool) -> None:
    if as_json:
        print(json.dumps(delivery.raw, indent=2))
        return
    _console.print(delivery.id, delivery.event, _outlook(delivery), highlight=False)
    for address in (delivery.raw.get("job") or delivery.raw.get("batch"), delivery.raw.get("url")):
        if address:
            _console.print(Text(f"  {make_plain(address)}"), soft_wrap=True)
    table = Table(box=None)
    for heading, width in (("at", _MOMENT_WIDTH), ("status", _CODE_WIDTH), ("ms", _MS_WIDTH)):
        table.add_column(heading, min_width=width, no_wrap=True)
    # A long answer gives way, or rich takes the room from the others.
    rest = _console.width - _MOMENT_WIDTH - _CODE_WIDTH - _MS_WIDTH - _PADDING
    table.add_column("answer", no_wrap=True, overflow="ellipsis", max_width=max(1, rest))
    for attempt in delivery.log:
        status, moment = attempt.get("status"), datetime.fromisoformat(attempt["at"]).astimezone()
        said = Text(_first_line(attempt))
        table.add_row(f"{moment:%Y-%m-%d %H:%M:%S}", "" if status is None else str(status), str(attempt["ms"]), said)
    _console.print(table if delivery.log else "  no attempt yet")


def _first_line(attempt: dict[str, Any]) -> str:
    """Of the answer, or what went wrong; without what would steer the terminal."""
    lines = str(attempt.get("response") or attempt.get("error") or "").strip().splitlines()
    return make_plain(lines[0]) if lines else ""


def _outlook(delivery: Delivery) -> str:
    """The status, and of one that waits when its next attempt is due, in local time."""
    if delivery.status != Status.PENDING or delivery.next_at is None:
        return delivery.status
    moment = delivery.next_at.astimezone()
    is_today = moment.date() == datetime.now().astimezone().date()
    return f"pending, next {moment:%H:%M}" if is_today else f"pending, next {moment:%a %H:%M}"


def _show_delivery(delivery: Delivery, *, as_json: bool) -> None:
    print(json.dumps(delivery.raw, indent=2) if as_json else f"{delivery.id} {delivery.event} {delivery.status}")


def _last_attempt(delivery: Delivery) -> str:
    if not delivery.log:
        return ""
    last = delivery.log[-1]
    return str(last.get("status") or last.get("error") or "")
