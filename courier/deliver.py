"""One call of a webhook: build what is said, sign it, post it, and write down what came of it.

A courier that dies in between has its delivery sent again by another, with the same `webhook-id` and body.
"""

import random
import time
from dataclasses import dataclass
from datetime import datetime, timedelta
from importlib.metadata import version as installed_version
from typing import Any, Final

import structlog

from common import failpoints
from common.batch_document import present_batch
from common.clock import monotonic_seconds, to_rfc3339
from common.db.dispatching import Taken, put_back
from common.db.outcomes import keep_body, settle
from common.domain.batch import BatchSnapshot
from common.domain.delivery import Decision, Outcome, decide, retry_after_seconds
from common.domain.errors import Unavailable
from common.domain.snapshot import JobSnapshot
from common.ids import is_id
from common.outbound.errors import LookupsBusy, OutboundError
from common.outbound.fetching import Posted
from common.signing import key_of, sign
from common.webhook_body import base_url, body_text, job_data
from courier.tools import Tools

MAX_RESPONSE_BYTES: Final = 1024
_UNREADABLE_SECONDS: Final = 60.0
_BUSY_SECONDS: Final = 5.0
_SETTLE_PAUSES_SECONDS: Final = (0.2, 0.5, 1.0, 2.0, 5.0)
# More than the schedule has, because a courier that dies in the middle has spent an attempt too.
_SPARE_TRIES: Final = 5
_OURS: Final = "something went wrong on our side"
_NO_END: Final = "attempts never came to an end"

_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Call:
    """A delivery in hand since `started` (monotonic); its wall clock is the database's, not this machine's."""

    taken: Taken
    started: float

    def now(self) -> datetime:
        """The time, in UTC."""
        return self.taken.taken_at + timedelta(seconds=monotonic_seconds() - self.started)


@dataclass(frozen=True, slots=True)
class _Result:
    """What a call came to, and its entry in the log."""

    outcome: Outcome
    entry: dict[str, Any]


def deliver(tools: Tools, call: Call) -> None:
    """Make one attempt. Whatever happens ends in the delivery's log, or by the end of its lease; raises nothing."""
    taken = call.taken
    subject = {"batch_id" if is_id(taken.subject_id or "", "bat") else "job_id": taken.subject_id}
    with structlog.contextvars.bound_contextvars(
        delivery_id=taken.id, **subject, kind=taken.kind, attempt=taken.attempt
    ):
        try:
            _deliver(tools, call)
        except Unavailable as error:  # its lease runs out, and somebody sends it (again)
            _log.warning("delivery.unavailable", detail=error.detail)
        except Exception as error:  # the edge of one delivery
            _log.error("delivery.stumbled", exc_info=error)


def _deliver(tools: Tools, call: Call) -> None:
    secrets = _open_secrets(tools, call)
    if secrets is None:
        return
    if call.taken.tries > len(tools.settings.webhook_pauses) + 1 + _SPARE_TRIES:
        _settle(tools, call, _failure(call.now(), 0, _NO_END))
        return
    try:
        body = _body(tools, call)
    except Unavailable:
        raise
    except Exception as error:  # a mistake of ours, which a release mends; the receiver was never asked
        _log.error("delivery.unspeakable", exc_info=error)
        _put_back(tools, call, _UNREADABLE_SECONDS)
        return
    if body is None:
        _log.info("delivery.lost")
        return
    try:
        result = _post(tools, call, secrets, body.encode())
    except LookupsBusy:
        _log.warning("delivery.postponed")
        _put_back(tools, call, _BUSY_SECONDS)
        return
    failpoints.hit("courier.posted")
    _settle(tools, call, result)


def _open_secrets(tools: Tools, call: Call) -> list[str] | None:
    """What the endpoint's deliveries are signed with. Without it nothing is sent, which is not the receiver's fault.

    A replaced secret that does not open (its key was dropped) is left out: the one in use signs alone.
    """
    secrets: list[str] = []
    for sealed in call.taken.secrets:
        try:
            secret = tools.vault.decrypt(sealed)
            key_of(secret)
        except (Unavailable, ValueError) as error:
            name = "webhook.old_secret_unreadable" if secrets else "webhook.secret_unreadable"
            _log.error(name, webhook_id=call.taken.webhook_id, detail=str(error))
            if not secrets:
                _put_back(tools, call, _UNREADABLE_SECONDS)
                return None
        else:
            secrets.append(secret)
    return secrets


def _put_back(tools: Tools, call: Call, seconds: float) -> None:
    """Nothing was sent, for a reason of ours: no attempt, and nothing against the receiver."""
    tools.database.transact(lambda connection: put_back(connection, call.taken, seconds))


def _body(tools: Tools, call: Call) -> str | None:
    """The exact text to send, the same at every attempt; None when the delivery is no longer ours."""
    taken = call.taken

    def build(subject: JobSnapshot | BatchSnapshot | None, device: str | None) -> str:
        data: dict[str, Any] = {"webhook": taken.webhook_id}
        base = base_url(tools.settings)
        if isinstance(subject, BatchSnapshot):
            data = present_batch(subject, base)
        elif subject is not None and taken.version is not None:
            data = job_data(taken.kind, taken.version, taken.created_at, subject, base, device)
        return body_text(taken.kind, taken.created_at, data)

    if taken.body:
        return taken.body
    return tools.database.transact(lambda connection: keep_body(connection, taken, build))


def _post(tools: Tools, call: Call, secrets: list[str], body: bytes) -> _Result:
    at = call.now()
    timestamp = int(at.timestamp())
    event_id = call.taken.event_id
    headers = {
        "content-type": "application/json",
        "user-agent": f"darkroom/{installed_version('darkroom')}",
        "webhook-id": event_id,
        "webhook-timestamp": str(timestamp),
        "webhook-signature": sign(secrets, event_id, timestamp, body),
    }
    started = monotonic_seconds()
    try:
        posted = tools.outbound.post(
            call.taken.url, body, headers, total_seconds=tools.settings.webhook_timeout_seconds
        )
    except LookupsBusy:
        raise
    except OutboundError as error:
        return _failure(at, _milliseconds_since(started), error.detail)
    except Exception as error:  # the edge of the network: what a receiver may do to us is a failed attempt
        _log.error("delivery.post_stumbled", exc_info=error)
        return _failure(at, _milliseconds_since(started), _OURS)
    return _answered(at, posted)


def _answered(at: datetime, posted: Posted) -> _Result:
    response = posted.body_start[:MAX_RESPONSE_BYTES].decode("utf-8", "replace").replace("\0", "")
    wait = retry_after_seconds(posted.headers.get("retry-after"), at)
    return _Result(Outcome(posted.status, wait), _entry(at, posted.milliseconds, posted.status, response, None))


def _failure(at: datetime, milliseconds: int, error: str) -> _Result:
    return _Result(Outcome(None), _entry(at, milliseconds, None, None, error))


def _entry(at: datetime, milliseconds: int, status: int | None, response: str | None, error: str | None) -> Any:
    return {"at": to_rfc3339(at), "status": status, "ms": milliseconds, "response": response, "error": error}


def _milliseconds_since(started: float) -> int:
    return round((monotonic_seconds() - started) * 1000)


def _settle(tools: Tools, call: Call, result: _Result) -> None:
    """Write it down, for as long as the lease lasts: what cannot be written is sent again."""
    settings, taken = tools.settings, call.taken
    jitter = random.uniform(-1, 1)  # noqa: S311 - spreads retries

    def rule(failing_for_seconds: float) -> Decision:
        pauses, most = settings.webhook_pauses, settings.webhook_disable_seconds
        return decide(taken.tries, result.outcome, pauses, failing_for_seconds, most, jitter)

    ends_at = monotonic_seconds() + settings.lease_seconds
    for pause in (*_SETTLE_PAUSES_SECONDS, *[_SETTLE_PAUSES_SECONDS[-1]] * 100):
        try:
            decision = tools.database.transact(lambda connection: settle(connection, taken, result.entry, rule))
        except Unavailable:
            if monotonic_seconds() + pause > ends_at:
                raise
            time.sleep(pause)
            continue
        name = "lost" if decision is None else type(decision).__name__.lower()
        _log.info(f"delivery.{name}", status=result.outcome.status, ms=result.entry["ms"], error=result.entry["error"])
        return
