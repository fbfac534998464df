"""Wall and monotonic time as values that a caller passes in; leases are decided by the database clock alone."""

import time
from datetime import UTC, datetime


def utc_now() -> datetime:
    """The current time, timezone-aware, in UTC. For display and logs, never for leases."""
    return datetime.now(UTC)


def monotonic_seconds() -> float:
    """Seconds of a clock that never goes back; only differences mean anything."""
    return time.monotonic()


def to_rfc3339(moment: datetime | None) -> str | None:
    """`2026-11-21T08:00:00.123Z` (milliseconds, UTC), or None for None."""
    if moment is None:
        return None
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
