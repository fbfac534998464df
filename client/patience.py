"""When to try again, and how long to wait: pure decisions."""

import email.utils
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Final

RETRYABLE_STATUSES: Final = frozenset({429, 502, 503, 504})

_FIRST_RETRY_SECONDS: Final = 0.2
_LONGEST_RETRY_SECONDS: Final = 5.0
_FIRST_POLL_SECONDS: Final = 0.1
_LONGEST_POLL_SECONDS: Final = 1.0
_POLL_GROWTH: Final = 1.3
_LONGEST_SUGGESTION_SECONDS: Final = 30.0
_FIRST_RECONNECT_SECONDS: Final = 1.0
_LONGEST_RECONNECT_SECONDS: Final = 5.0
_LEAST_RECONNECT_SECONDS: Final = 0.1


def retry_wait(attempt: int, retry_after_seconds: float | None) -> float:
    """Seconds before try `attempt` + 1 (the first is 1): what the server asks for, else 0.2 doubling up to 5."""
    doubled: float = _FIRST_RETRY_SECONDS * 2 ** (attempt - 1)
    return min(doubled, _LONGEST_RETRY_SECONDS) if retry_after_seconds is None else retry_after_seconds


def poll_wait(polls: int, retry_after_seconds: float | None) -> float:
    """Seconds before the next look at a job after `polls` looks: 0.1 growing to 1, more when the server asks for it.

    A suggestion of up to a second is the smallest that the header can express, and gives way to our own rhythm.
    """
    own = min(_FIRST_POLL_SECONDS * _POLL_GROWTH ** min(polls, 20), _LONGEST_POLL_SECONDS)
    suggested = retry_after_seconds or 0.0
    return min(suggested, _LONGEST_SUGGESTION_SECONDS) if suggested > _LONGEST_POLL_SECONDS else own


def reconnect_wait(attempt: int, retry_seconds: float | None, retry_after_seconds: float | None, luck: float) -> float:
    """Seconds before a stream is connected again, for the `attempt`th time in a row (the first is 1).

    What the stream asked for as `retry` (1 unless it did), doubling up to 5, of which `luck` (0 to 1) takes up to half
    so that the clients of one server do not all come back at once; more when a refusal asks for it.
    """
    asked = _FIRST_RECONNECT_SECONDS if retry_seconds is None else retry_seconds
    first = max(_LEAST_RECONNECT_SECONDS, min(asked, _LONGEST_SUGGESTION_SECONDS))
    doubled: float = first * 2 ** min(attempt - 1, 10)
    own = min(doubled, max(first, _LONGEST_RECONNECT_SECONDS)) * (1 - luck / 2)
    return max(own, retry_after_seconds or 0.0)


def parse_retry_after(headers: Mapping[str, str], now: datetime | None = None) -> float | None:
    """The `Retry-After` header in seconds from now, whichever of its two forms it has; None when it says nothing."""
    text = headers.get("Retry-After", "").strip()
    if text.isascii() and text.isdigit():
        return float(text)
    try:
        moment = email.utils.parsedate_to_datetime(text)
    except (ValueError, OverflowError):
        return None
    if moment.tzinfo is None:  # "-0000": of no known zone
        return None
    return max(0.0, (moment - (now or datetime.now(UTC))).total_seconds())
