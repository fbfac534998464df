"""I4 and I8 of webhooks, on a deployment at rest: what the rows promise was told, once per id, and told truly."""

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any
from urllib.parse import urlsplit

from sqlalchemy import Row, select

from common.db.engine import Database
from common.db.tables import deliveries, job_events, jobs, webhooks
from common.domain.lifecycle import TERMINAL_EVENTS, JobState
from common.domain.webhook_events import STARTED_EVENT, TEST_EVENT, event_id
from tests.faults.receiver import Received

_ENDS = frozenset(TERMINAL_EVENTS.values())


def webhook_violations(database: Database, received: Sequence[Received]) -> Iterator[str]:
    """One sentence for each violation. `received`: every call that a receiver got, whatever it answered."""
    with database.read() as connection:
        endpoints = list(connection.execute(select(webhooks)))
        told = list(connection.execute(select(deliveries)))
        events = list(connection.execute(select(job_events).order_by(job_events.c.job_id, job_events.c.version)))
        states = {row.id: JobState(row.state) for row in connection.execute(select(jobs.c.id, jobs.c.state))}
    yield from _ends_without_one_event(states, events)
    yield from _wrong_rows(endpoints, told, events)
    yield from _unheard(endpoints, told, received)
    yield from _untrue(events, received)


def _ends_without_one_event(states: dict[str, JobState], events: Sequence[Row[Any]]) -> Iterator[str]:
    """I4: one row of the outbox for each terminal transition."""
    ends = Counter(event.job_id for event in events if event.kind in _ENDS)
    for job_id, state in states.items():
        if ends[job_id] != state.is_terminal:
            yield f"I4 {job_id} is {state} and has {ends[job_id]} events of its end"


def _wrong_rows(endpoints: Sequence[Row[Any]], told: Sequence[Row[Any]], events: Sequence[Row[Any]]) -> Iterator[str]:
    """I4: one delivery for each event and each endpoint that wanted it then, and no other."""
    starts: set[str] = set()
    wanted: set[tuple[str, str]] = set()
    for event in events:
        if event.kind not in _ENDS and (event.kind != STARTED_EVENT or event.job_id in starts):
            continue
        starts |= {event.job_id} if event.kind == STARTED_EVENT else set()
        name = event_id(event.job_id, event.version)
        wanted |= {(endpoint.id, name) for endpoint in endpoints if _wants(endpoint, event)}
    found = Counter((row.webhook_id, row.event_id) for row in told if row.kind != TEST_EVENT)
    disabled = {endpoint.id for endpoint in endpoints if endpoint.disabled_at is not None}
    for webhook_id, name in wanted - set(found):
        if webhook_id not in disabled:
            yield f"I4 {webhook_id} wanted {name}, and there is no delivery of it"
    for (webhook_id, name), count in found.items():
        if count > 1 or (webhook_id, name) not in wanted:
            yield f"I4 {webhook_id} has {count} deliveries of {name}, wanted: {(webhook_id, name) in wanted}"


def _wants(endpoint: Row[Any], event: Row[Any]) -> bool:
    is_of_it = endpoint.tenant_id == event.tenant_id and endpoint.job_id in (None, event.job_id)
    return bool(is_of_it and event.kind in endpoint.events and endpoint.created_at <= event.created_at)


def _unheard(endpoints: Sequence[Row[Any]], told: Sequence[Row[Any]], received: Sequence[Received]) -> Iterator[str]:
    """I4: nothing is under way; what counts as delivered was taken; and an event came by one id and one body only."""
    paths = {endpoint.id: urlsplit(endpoint.url).path for endpoint in endpoints}
    taken = Counter((one.path, one.event_id) for one in received if one.is_taken)
    promised = {(paths[row.webhook_id], row.event_id) for row in told}
    for row in told:
        if row.state == "pending":
            yield f"I4 {row.id} is still pending after {row.attempt} attempts"
        if row.state == "delivered" and not taken[paths[row.webhook_id], row.event_id]:
            yield f"I4 {row.id} is delivered, and the receiver never took {row.event_id}"
    ids: dict[tuple[str, str, int], set[tuple[str, str]]] = {}
    for one in received:
        if (one.path, one.event_id) not in promised:
            yield f"I4 {one.path} got {one.event_id}, of which there is no delivery"
        if "version" in one.data:
            ids.setdefault((one.path, one.data["id"], one.data["version"]), set()).add((one.event_id, one.body))
    for name, seen in ids.items():
        if len(seen) > 1:
            yield f"I4 {name} was told in {len(seen)} ways"


def _untrue(events: Sequence[Row[Any]], received: Sequence[Received]) -> Iterator[str]:
    """I8: what a webhook says is what the events say."""
    states = {(event.job_id, event.version): event.payload["state"] for event in events}
    for one in received:
        data = one.data
        if "version" in data and states.get((data["id"], data["version"])) != data["status"]:
            told = states.get((data["id"], data["version"]))
            yield f"I8 {data['id']} was told {data['status']} at version {data['version']}, and the event says {told}"
