"""How many files and connections this process may hold open, and how many of them may be clients that wait."""

import resource
import sys
from contextlib import suppress
from typing import Final

import structlog

# What everything else needs: the database, the store, Redis, decoders, and clients that do not wait.
_RESERVE: Final = 256
# For systems whose limit is none; some of them refuse to be asked for that.
_PLENTY: Final = 65536

_log = structlog.get_logger()


def raise_limit() -> None:
    """Let this process open as many files as the system allows it, which is often far more than it starts with."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _PLENTY if hard == resource.RLIM_INFINITY else hard
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return
    with suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        _log.info("api.descriptors_raised", before=soft, now=wanted)


def places_to_wait(max_waiters: int) -> int:
    """How many clients may wait: as many as wished, but 256 fewer than there are descriptors, and at least one.

    Fewer than wished is logged as a warning: who runs out of descriptors can accept nobody, not even to refuse.
    """
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    limit = sys.maxsize if soft == resource.RLIM_INFINITY else soft
    places = max(1, min(max_waiters, limit - _RESERVE))
    if places < max_waiters:
        _log.warning("api.few_descriptors", descriptors=limit, max_waiters=max_waiters, places=places)
    return places
