"""The ten invariants of a deployment at rest, checked on its rows, its objects and what its clients were told.

Each is one function from the facts to the violations that it found, in words. Those of webhooks are in
`tests.faults.webhook_invariants`.
"""

import hashlib
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Final

import httpx
from sqlalchemy import Row, select

from common.db.engine import Database
from common.db.tables import attempts, images, job_events, job_requests, job_steps, jobs, object_refs, objects
from common.domain.lifecycle import INITIAL, MOVES, JobState, Outcome
from common.domain.params import EditParams
from common.storage.port import ObjectMissing, ObjectStore
from sweeper.cleaner import OWNER_KEY
from tests.faults.batch_invariants import batch_violations
from tests.faults.clients import History
from tests.faults.receiver import Received
from tests.faults.webhook_invariants import webhook_violations

_SHOWN: Final = 40
_GET_THREADS: Final = 8
_MAKERS: Final = ("results/", "steps/")

_EDGES: Final = {(move.name, move.source, target) for move in MOVES for target in move.targets}
# Facts that add a version and leave the state: what has no move in its payload.
_STAYING: Final = {"job.prepared": JobState.QUEUED, "job.edited": JobState.QUEUED, "job.started": JobState.RUNNING}
# How the last attempt may have ended when the job ended so; a cancel may meet a job that waits for its next attempt.
_LAST_OUTCOMES: Final = {
    JobState.SUCCEEDED: {Outcome.SUCCEEDED},
    JobState.FAILED: {Outcome.FAILED, Outcome.LOST, Outcome.RETRIED, Outcome.RELEASED},
    JobState.CANCELED: {Outcome.CANCELED, Outcome.LOST, Outcome.RETRIED, Outcome.RELEASED},
}

Rows = Sequence[Row[Any]]


@dataclass(frozen=True, slots=True)
class Facts:
    """Every row that matters, by job where it belongs to one, read in one transaction."""

    jobs: Mapping[str, Row[Any]]
    params: Mapping[str, EditParams]
    events: Mapping[str, Rows]
    attempts: Mapping[str, Rows]
    images: Mapping[str, Rows]
    steps: Mapping[str, Rows]
    objects: Mapping[str, Row[Any]]
    references: Rows


def check(
    database: Database,
    store: ObjectStore,
    acknowledged: Collection[str],
    *,
    history: History | None = None,
    received: Sequence[Received] | None = None,
) -> None:
    """Raise one AssertionError with every violation of I1 to I6, of I7 in batches, of I9 and of the rows of I10.

    `acknowledged` are the ids that clients were given; `history` adds I8, what they saw when they looked; `received` I4
    and I8 of webhooks, what a receiver of all of them was told. What attempts that did not win have left in the store
    is no violation before the cleaner has passed: see `orphans`. `wrong_counts` (I7) and `foreign_answers` (I10) ask an
    API.
    """
    found = list(violations(database, store, acknowledged, history=history, received=received))
    if found:
        more = f"\n… and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
        raise AssertionError(f"{len(found)} violations:\n" + "\n".join(found[:_SHOWN]) + more)


def violations(
    database: Database,
    store: ObjectStore,
    acknowledged: Collection[str],
    *,
    history: History | None = None,
    received: Sequence[Received] | None = None,
) -> Iterator[str]:
    """The same one by one."""
    facts = read_facts(database)
    yield from _lost_jobs(facts, acknowledged)
    for rule in (_walked_wrongly, _wrong_results, _wrong_outbox, _stale_writes, _wrong_tries, _mixed_tenants):
        yield from rule(facts)
    yield from batch_violations(database)
    yield from _wrong_objects(facts, store)
    yield from _strange_orphans(facts, store)
    if history is not None:
        yield from _disagreeing_polls(facts, history)
    if received is not None:
        yield from webhook_violations(database, received)


def read_facts(database: Database) -> Facts:
    """What the database says now."""
    with database.read() as connection:

        def by_job(table: Any, order: Any) -> dict[str, list[Row[Any]]]:
            grouped: dict[str, list[Row[Any]]] = {}
            for row in connection.execute(select(table).order_by(order)):
                grouped.setdefault(row.job_id, []).append(row)
            return grouped

        requests = connection.execute(select(job_requests.c.job_id, job_requests.c.params))
        return Facts(
            jobs={row.id: row for row in connection.execute(select(jobs))},
            params={row.job_id: EditParams.from_dict(row.params) for row in requests if row.params},
            events=by_job(job_events, job_events.c.version),
            attempts=by_job(attempts, attempts.c.fence),
            images=by_job(images, images.c.index),
            steps=by_job(job_steps, job_steps.c.step),
            objects={row.key: row for row in connection.execute(select(objects))},
            references=list(connection.execute(select(object_refs))),
        )


def _lost_jobs(facts: Facts, acknowledged: Collection[str]) -> Iterator[str]:
    """I1: every acknowledged job is terminal. So is every other one: what is committed is promised."""
    for job_id in sorted(set(acknowledged) - set(facts.jobs)):
        yield f"I1 {job_id} was acknowledged and is not there"
    for job_id, job in facts.jobs.items():
        if not JobState(job.state).is_terminal:
            yield f"I1 {job_id} is still {job.state}, held={job.held}, tries={job.tries}"


def _walked_wrongly(facts: Facts) -> Iterator[str]:
    """I2: only edges of the table of moves, exactly one of them into a terminal state, which is the job's."""
    for job_id, job in facts.jobs.items():
        state = None
        ends = 0
        for event in facts.events.get(job_id, ()):
            reached = JobState(event.payload["state"])
            if not _is_allowed(state, event, reached):
                yield f"I2 {job_id} went from {state} to {reached} by {event.kind} at version {event.version}"
            ends += reached.is_terminal
            state = reached
        if ends != JobState(job.state).is_terminal or state != job.state:
            yield f"I2 {job_id} is {job.state}, and its events have {ends} ends, the last state being {state}"


def _is_allowed(state: JobState | None, event: Row[Any], reached: JobState) -> bool:
    if state is None:
        return reached is INITIAL and event.kind == "job.queued"
    if event.kind in _STAYING:
        return state is reached is _STAYING[event.kind]
    return (event.payload.get("move"), state, reached) in _EDGES


def _wrong_results(facts: Facts) -> Iterator[str]:
    """I3, the rows: a success has exactly its results, each with an object of the same digest; others have none."""
    for job_id, job in facts.jobs.items():
        if job.erased_at is not None or job.cleaned_at is not None:
            continue
        made = facts.images.get(job_id, ())
        wanted = facts.params[job_id].result_count if job.state == JobState.SUCCEEDED else 0
        if [row.index for row in made] != list(range(wanted)):
            yield f"I3 {job_id} is {job.state} and has the images {[row.index for row in made]}, not {wanted}"
        for row in made:
            thing = facts.objects.get(row.key)
            if thing is None or thing.sha256 != row.sha256:
                yield f"I3 {job_id} has an image {row.index} whose object is unknown or another"


def _wrong_outbox(facts: Facts) -> Iterator[str]:
    """I4: one row of the outbox for each version, without a gap."""
    for job_id, job in facts.jobs.items():
        versions = [event.version for event in facts.events.get(job_id, ())]
        if versions != list(range(1, job.version + 1)):
            yield f"I4 {job_id} is at version {job.version}, and its events are {versions}"


def _stale_writes(facts: Facts) -> Iterator[str]:
    """I5: results carry the fence of the one attempt that won; a kept step that of an attempt; none is left open."""
    for job_id, job in facts.jobs.items():
        tried = facts.attempts.get(job_id, ())
        won = [row.fence for row in tried if row.outcome == Outcome.SUCCEEDED]
        if won != ([job.fence] if job.state == JobState.SUCCEEDED else []):
            yield f"I5 {job_id} is {job.state} at fence {job.fence}, and the attempts {won} won"
        stale = [row.index for row in facts.images.get(job_id, ()) if row.fence not in won]
        if stale:
            yield f"I5 {job_id} has images {stale} of an attempt that did not win"
        if {row.fence for row in facts.steps.get(job_id, ())} - {row.fence for row in tried}:
            yield f"I5 {job_id} has a step of an attempt that never was"
        still_open = [row.fence for row in tried if row.ended_at is None]
        if still_open != ([job.fence] if job.state == JobState.RUNNING else []):
            yield f"I5 {job_id} is {job.state}, and its attempts {still_open} are open"


def _wrong_tries(facts: Facts) -> Iterator[str]:
    """I6: one attempt for each claim, tries are those that were not given back, and within the budget."""
    for job_id, job in facts.jobs.items():
        tried = facts.attempts.get(job_id, ())
        if [row.fence for row in tried] != list(range(1, job.fence + 1)):
            yield f"I6 {job_id} has fence {job.fence} and the attempts {[row.fence for row in tried]}"
        spent = sum(row.outcome != Outcome.RELEASED for row in tried)
        if spent != job.tries or job.tries > job.max_tries:
            yield f"I6 {job_id} spent {spent} attempts, says {job.tries} tries of {job.max_tries}"
        joined = sum(row.joined_at is not None for row in tried)
        if joined != job.attempt:
            yield f"I6 {job_id} joined {joined} times and says {job.attempt}"
        if any(before.ended_at is None or before.ended_at > after.claimed_at for before, after in pairwise(tried)):
            yield f"I6 {job_id} was claimed again before an attempt had ended"
        ends = _LAST_OUTCOMES.get(JobState(job.state))
        if ends is not None and tried and tried[-1].outcome not in ends:
            yield f"I6 {job_id} is {job.state} and its last attempt {tried[-1].outcome}"


def _mixed_tenants(facts: Facts) -> Iterator[str]:
    """I10, the rows: what belongs to a job belongs to its tenant."""
    for name in ("events", "attempts", "images", "steps"):
        for job_id, rows in getattr(facts, name).items():
            if {row.tenant_id for row in rows} != {facts.jobs[job_id].tenant_id}:
                yield f"I10 {job_id} has {name} of another tenant"
    for row in facts.references:
        thing = facts.objects.get(row.object_key)
        if row.tenant_id != facts.jobs[row.job_id].tenant_id or (thing and thing.tenant_id != row.tenant_id):
            yield f"I10 {row.job_id} refers to {row.object_key} across tenants"


def _wrong_objects(facts: Facts, store: ObjectStore) -> Iterator[str]:
    """I3 and I9, the objects: what a job refers to, and what has no end, lies in the store with its digest.

    A row with an end and without references may announce an object that was never stored.
    """
    needed = {row.object_key for row in facts.references} | {
        key for key, row in facts.objects.items() if row.state == "live" and row.expires_at is None
    }
    rows = [facts.objects[key] for key in sorted(needed & set(facts.objects))]
    for key in sorted(needed - set(facts.objects)):
        yield f"I9 {key} is needed and has no row"
    with ThreadPoolExecutor(_GET_THREADS) as pool:
        for row, digest in zip(rows, pool.map(lambda row: _digest(store, row.key), rows), strict=True):
            if digest != row.sha256:
                yield f"I9 {row.key} is {'missing' if digest is None else 'another'} in the store"


def _digest(store: ObjectStore, key: str) -> str | None:
    try:
        return hashlib.sha256(store.get(key)).hexdigest()
    except ObjectMissing:
        return None


def orphans(database: Database, store: ObjectStore) -> list[str]:
    """I9's first half: keys in the store without a row. Once the cleaner has passed, there are none."""
    return _orphans(read_facts(database), store)


def _orphans(facts: Facts, store: ObjectStore) -> list[str]:
    return [one.key for one in store.list() if one.key not in facts.objects and one.key != OWNER_KEY]


def _strange_orphans(facts: Facts, store: ObjectStore) -> Iterator[str]:
    """I9: until the cleaner has passed, attempts that did not win may have left results and steps; nobody anything."""
    for key in _orphans(facts, store):
        _, _, job_id, fence, *_ = [*key.split("/"), "", "", "", ""]
        outcomes = {str(row.fence): row.outcome for row in facts.attempts.get(job_id, ())}
        if not key.startswith(_MAKERS) or outcomes.get(fence, Outcome.SUCCEEDED) == Outcome.SUCCEEDED:
            yield f"I9 {key} has no row, and no attempt that lost has left it"


def _disagreeing_polls(facts: Facts, history: History) -> Iterator[str]:
    """I8: what a client saw is what the events say, and nobody sees a job go back."""
    for job_id, seen in history.seen().items():
        states = {event.version: event.payload["state"] for event in facts.events.get(job_id, ())}
        for version, state in set(seen):
            if states.get(version) != state:
                yield f"I8 {job_id} was seen {state} at version {version}, and the event says {states.get(version)}"
        if [version for version, _ in seen] != sorted(version for version, _ in seen):
            yield f"I8 {job_id} was seen going back: {seen}"


def wrong_counts(database: Database, client: httpx.Client) -> list[str]:
    """I7: what `GET /v1/queue` says is a recount of the rows. For a deployment at rest."""
    told = client.get("/v1/queue").raise_for_status().json()
    facts = read_facts(database)
    queued = Counter((job.pool, job.lane) for job in facts.jobs.values() if job.state == JobState.QUEUED)
    running = Counter(job.pool for job in facts.jobs.values() if job.state == JobState.RUNNING)
    said_queued = Counter({(lane["pool"], lane["lane"]): lane["queued"] for lane in told["lanes"]})
    said_running = Counter({pool["pool"]: pool["running"] for pool in told["pools"]})
    compared = {"queued": (said_queued, queued), "running": (said_running, running)}
    return [
        f"I7 {name}: {dict(said)} told, {dict(real)} rows" for name, (said, real) in compared.items() if said != real
    ]


def foreign_answers(client: httpx.Client, ids: Collection[str]) -> list[str]:
    """I10: jobs of another tenant, `ids`, that the client's key gets to see, in a list or by id."""
    shown = [one["id"] for one in client.get("/v1/jobs", params={"limit": 100}).raise_for_status().json()["data"]]
    found = [f"I10 {job_id} is in the list of another" for job_id in shown if job_id in ids]
    for job_id in ids:
        for path in ("", "/images/0", "/preview"):
            status = client.get(f"/v1/jobs/{job_id}{path}").status_code
            if status != 404:
                found.append(f"I10 another asked for {job_id}{path} and got {status}")
    return found
