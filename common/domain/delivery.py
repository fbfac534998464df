"""What follows from one attempt to deliver an event: done, again later, given up, or the endpoint disabled. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Final, Literal

JITTER: Final = 0.2
MOST_RETRY_AFTER_SECONDS: Final = 86_400.0
_GONE: Final = 410

DisableReason = Literal["gone", "failing"]


@dataclass(frozen=True, slots=True)
class Outcome:
    """How an attempt ended: the receiver's status, or None when there was none, and when it wants to be asked again."""

    status: int | None
    retry_after_seconds: float | None = None

    @property
    def is_delivered(self) -> bool:
        """Whether the receiver has it: any 2xx. A redirect is a failure like others."""
        return self.status is not None and 200 <= self.status < 300


@dataclass(frozen=True, slots=True)
class Delivered:
    """The receiver has it."""


@dataclass(frozen=True, slots=True)
class Again:
    """Another attempt after so many seconds."""

    seconds: float


@dataclass(frozen=True, slots=True)
class GiveUp:
    """The schedule is over; the delivery failed."""


@dataclass(frozen=True, slots=True)
class Disable:
    """The endpoint gets nothing more: it said that it is `gone`, or has been `failing` for long."""

    reason: DisableReason


Decision = Delivered | Again | GiveUp | Disable


def decide(
    attempt: int,
    outcome: Outcome,
    pauses: Sequence[float],
    failing_for_seconds: float,
    disable_seconds: float,
    jitter: float,
) -> Decision:
    """What becomes of a delivery after its attempt number `attempt` (from 1) of a schedule with these pauses between.

    `failing_for_seconds`: the length of the endpoint's unbroken row of failures, this one included; a first attempt
    never disables, since the row may be no more than this failure and one of a quiet past. `jitter` within -1 and 1
    moves a pause by at most a fifth of it. A `Retry-After` is never undercut, up to a day.
    """
    if outcome.is_delivered:
        return Delivered()
    if outcome.status == _GONE:
        return Disable("gone")
    if failing_for_seconds >= disable_seconds and attempt > 1:
        return Disable("failing")
    if attempt > len(pauses):
        return GiveUp()
    pause = pauses[max(attempt, 1) - 1] * (1 + JITTER * jitter)
    return Again(max(pause, min(outcome.retry_after_seconds or 0.0, MOST_RETRY_AFTER_SECONDS)))


def retry_after_seconds(header: str | None, now: datetime) -> float | None:
    """What a `Retry-After` says, in seconds from `now`, at least 0; None when it says nothing that can be read."""
    text = (header or "").strip()
    if text.isascii() and text.isdigit():
        return float(text[:12])
    try:
        moment = parsedate_to_datetime(text)
    except (ValueError, OverflowError):
        return None
    moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return max(0.0, (moment - now).total_seconds())
