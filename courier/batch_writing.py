"""From the lines of a manifest to verdicts, and from those to errors or jobs, chunk after chunk under the lease."""

from collections.abc import Sequence
from contextlib import closing
from itertools import islice
from typing import Any, Final

import structlog
from sqlalchemy import Connection

from common import failpoints
from common.clock import monotonic_seconds
from common.db.batch_work import NewItem, accept, insert_items, note_validated, reject
from common.domain.batch import MOST_ERRORS, LineError
from common.domain.errors import Invalid, problem_document
from common.requests.jobs import Terms, make_job
from common.requests.lines import read_custom_id
from common.storage.port import ObjectMissing
from courier.batch_judging import Judge, Verdict
from courier.batch_lines import INTERNAL, Line, LineReader, without_id
from courier.batch_manifest import Manifest
from courier.batch_turns import LeaseLost, Turn
from courier.batch_wishes import move_jobs

MOST_CHUNK_BYTES: Final = 32 << 20
"""About so much of requests is checked or written at once."""

_MISSING: Final = "the manifest of the batch is no longer there; send the batch again"

_log = structlog.get_logger()


def validate_lines(turn: Turn, reader: LineReader) -> bool:
    """Check the lines that are not checked yet. True when all are and the batch is to run.

    `error_count` counts wrong lines; `errors` are all problems of the first of them.
    """
    work = turn.work
    at, errors, count = work.validated, list(work.errors), work.error_count
    with closing(_Chunks(turn, reader, at)) as chunks:
        while at < work.total:
            if turn.is_over():
                return False
            verdicts = chunks.next_verdicts()
            if not verdicts:
                return _end_missing(turn)
            wrong = [one for one in verdicts if one.problems]
            errors = [*errors, *_documents(wrong[:MOST_ERRORS])][:MOST_ERRORS]
            at, count = at + len(verdicts), count + len(wrong)
            _note(turn, at, errors, count)
            failpoints.hit("courier.batch_validated_chunk")
    return _decide(turn, errors, count)


def insert_lines(turn: Turn, reader: LineReader) -> None:
    """Insert the lines that do not stand yet, with their jobs, until all do or the turn is over. What is wished of the
    batch is done with each chunk.
    """
    at = turn.look().inserted
    if not move_jobs(turn) or at == turn.work.total:
        return
    if turn.is_stuck():
        _insert(turn, _without_jobs(turn, at, problem_document(INTERNAL.code, INTERNAL.detail)))
        return
    with closing(_Chunks(turn, reader, at)) as chunks:
        while at < turn.work.total and not turn.is_over():
            items = (
                chunks.next_ids()
                if turn.work.cancel_requested
                else [_item(turn, one) for one in chunks.next_verdicts()]
            )
            items = items or _without_jobs(turn, at, problem_document("input_missing", _MISSING))
            _insert(turn, items)
            at += len(items)
            turn.look()
            move_jobs(turn)


def end_stuck(turn: Turn) -> None:
    """Reject the batch whose lines cannot be checked, which is a mistake of ours."""
    _reject(turn, [{"line": None, **INTERNAL.as_dict()}], turn.work.total)


def _without_jobs(turn: Turn, at: int, error: dict[str, Any]) -> list[NewItem]:
    """The next lines, wrong for this reason; canceled, if that is wished, which is no mistake of theirs."""
    numbers = range(at, min(at + turn.chunk, turn.work.total))
    return [NewItem(number, None, error=None if turn.work.cancel_requested else error) for number in numbers]


class _Chunks:
    """The lines of a manifest from a cursor on, chunk by chunk; nothing when the manifest or its rest is gone."""

    def __init__(self, turn: Turn, reader: LineReader, start: int) -> None:
        self._turn = turn
        self._reader = reader
        self._judge = Judge(turn.tools, turn.work)
        self._manifest: Manifest | None = None
        try:
            self._manifest = Manifest(turn.tools.store, turn.work, start, turn.hold_on)
        except ObjectMissing:
            _log.error("batch.manifest_missing")

    def close(self) -> None:
        """Let go of the manifest."""
        if self._manifest is not None:
            self._manifest.close()

    def next_verdicts(self) -> list[Verdict]:
        """What is to be said of the next lines."""
        return self._judge.judge(self._lines())

    def next_ids(self) -> list[NewItem]:
        """The next lines of a batch that is not to run, as items without jobs: only their ids are read."""
        manifest, items = self._manifest, list[NewItem]()
        ends_at = self._ends_at()
        while manifest is not None and len(items) < self._turn.chunk and monotonic_seconds() < ends_at:
            found = next(iter(manifest), None)
            if found is None:
                break
            custom_id = read_custom_id(*found)
            items.append(NewItem(found[0], custom_id if manifest.take_id(custom_id) else None))
        return items

    def _ends_at(self) -> float:
        """When to write what has been read: reading has a part of the lease."""
        return monotonic_seconds() + self._turn.lease_seconds / 4

    def _lines(self) -> list[Line]:
        """At most a chunk, no more than memory and one transaction can take well, and as far as there is time."""
        manifest, lines = self._manifest, list[Line]()
        if manifest is None:
            return []
        ends_at, bytes_ = self._ends_at(), 0
        while len(lines) < self._turn.chunk and bytes_ < MOST_CHUNK_BYTES and monotonic_seconds() < ends_at:
            raws = list(islice(manifest, min(self._reader.at_once, self._turn.chunk - len(lines))))
            if not raws:
                break
            read = self._reader.read(raws)
            bytes_ += sum(line.bytes_ for line in read)
            lines += read
        return [
            line if line.custom_id is None or manifest.take_id(line.custom_id) else without_id(line) for line in lines
        ]


def _end_missing(turn: Turn) -> bool:
    """Reject the batch whose manifest is gone, or has fewer lines than it had."""
    problem = {"line": None, "pointer": "", "code": "input_missing", "detail": _MISSING}
    return _reject(turn, [problem], turn.work.total)


def _decide(turn: Turn, errors: Sequence[dict[str, Any]], count: int) -> bool:
    is_strict = turn.work.request.get("on_invalid", "reject") == "reject"
    if count and (is_strict or count >= turn.work.total):
        return _reject(turn, errors, count)
    if not turn.tools.database.transact(lambda connection: accept(connection, turn.work)):
        raise LeaseLost
    _log.info("batch.accepted", lines=turn.work.total, wrong=count)
    return True


def _reject(turn: Turn, errors: Sequence[dict[str, Any]], count: int) -> bool:
    if not turn.tools.database.transact(lambda connection: reject(connection, turn.work, errors, count)):
        raise LeaseLost
    _log.info("batch.rejected", lines=turn.work.total, wrong=count)
    return False


def _note(turn: Turn, at: int, errors: Sequence[dict[str, Any]], count: int) -> None:
    def note(connection: Connection) -> bool:
        return note_validated(connection, turn.work, at, errors, count, turn.lease_seconds)

    if not turn.tools.database.transact(note):
        raise LeaseLost


def _insert(turn: Turn, items: Sequence[NewItem]) -> None:
    """One chunk, all or nothing, and a bell for each pool."""

    def insert(connection: Connection) -> dict[str, int] | None:
        pools = insert_items(connection, turn.work, items, turn.lease_seconds)
        failpoints.hit("courier.batch_chunk_inserted")
        return pools

    pools = turn.tools.database.transact(insert)
    if pools is None:
        raise LeaseLost
    failpoints.hit("courier.batch_chunk_committed")
    _log.info("batch.chunk_inserted", first=items[0].line, lines=len(items))
    for pool, jobs in pools.items():
        turn.tools.doorbell.ring(pool, jobs)


def _documents(wrong: Sequence[Verdict]) -> list[dict[str, Any]]:
    return [LineError(one.line.number, problem.as_dict()).as_dict() for one in wrong for problem in one.problems]


def _item(turn: Turn, verdict: Verdict) -> NewItem:
    line, plan, work = verdict.line, verdict.plan, turn.work
    if plan is None or line.request is None:
        error = Invalid(verdict.problems)
        document = problem_document(error.code, error.detail, problems=error.problems)
        return NewItem(line.number, line.custom_id, error=document)
    terms = Terms(
        tenant_id=work.tenant_id,
        lane=work.lane,
        max_tries=turn.tools.settings.max_tries,
        scale=turn.tools.paces.scale(plan.card.pool, plan.card.id),
        retry_of=line.retry_of,
        batch_id=work.id,
        external_id=line.external_id or line.custom_id,
    )
    job = make_job(line.request, plan, terms, verdict.inputs, verdict.urls)
    return NewItem(line.number, line.custom_id, job, urls=verdict.urls)
