"""Named places at which a fault test kills, stops or disturbs this process. Nothing happens unless armed.

A place says `hit("worker.step")`; `DARKROOM_FAILPOINTS=worker.step:sigkill:0.1` lets one in ten of these end the
process. Seeded, so that a failing run can be repeated.
"""

import os
import random
import signal
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

import structlog

from common.domain.errors import Unavailable

_SOON_SECONDS: Final = 0.002

NAMES: Final = frozenset(
    {
        "api.inserted",  # the rows are written, not committed
        "api.committed",  # committed, the bell has not rung, the client has no answer
        "api.rang",  # the bell has rung, the client has no answer
        "api.batch_stored",  # a manifest lies in the store, its batch does not stand
        "api.batch_inserted",  # the batch is written, not committed
        "api.batch_committed",  # committed, no courier has been rung for, the client has no answer
        "worker.claimed",  # the claim is committed, nothing is loaded
        "worker.loaded",  # the inputs are in memory
        "worker.step",  # a frame has taken a step
        "worker.before_put",  # a result is encoded
        "worker.put",  # a result lies in the store, nothing says so
        "worker.in_commit",  # everything of the end is written; what follows is COMMIT
        "worker.committed",  # the end is committed, the process does not know what comes next
        "sweeper.page",  # some rows of a page are rescued, not committed
        "courier.posted",  # a webhook was called, its delivery does not know
        "courier.batch_validated_chunk",  # some lines are checked, and the cursor says so
        "courier.batch_chunk_inserted",  # the jobs of some lines are written, not committed
        "courier.batch_chunk_committed",  # they are committed, their pools have not been rung for
        "courier.stored",  # a fetched image lies in the store, its job does not know
        "cleaner.deleting",  # an object is deleted, its row is not
    }
)

_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Failpoint:
    """What happens at a place, and with what probability each time."""

    name: str
    action: str
    probability: float = 1.0


class _Armed:
    """The failpoints of this process."""

    def __init__(self) -> None:
        self.points: Mapping[str, Failpoint] = {}
        self.random = random.Random()  # noqa: S311 - chooses faults


_armed = _Armed()


def parse(text: str) -> dict[str, Failpoint]:
    """`name:action[:probability]`, separated by commas. Raises ValueError that says what is allowed."""
    points = [_parse_one(part.strip()) for part in text.split(",") if part.strip()]
    return {point.name: point for point in points}


def arm(text: str, seed: int = 0) -> None:
    """Let these failpoints act in this process from now on; an empty text disarms all."""
    _armed.points = parse(text)
    _armed.random = random.Random(seed or None)  # noqa: S311 - chooses faults
    if _armed.points:
        _log.warning("failpoints.armed", points=text)


def hit(name: str) -> None:
    """This place is reached."""
    point = _armed.points.get(name)
    if point is not None and _armed.random.random() < point.probability:
        _log.warning("failpoint.hit", name=name, action=point.action)
        _ACTIONS[point.action]()


def _parse_one(text: str) -> Failpoint:
    name, _, rest = text.partition(":")
    action, _, probability = rest.partition(":")
    if name not in NAMES:
        raise ValueError(f"there is no failpoint {name!r}; there are {', '.join(sorted(NAMES))}")
    if action not in _ACTIONS:
        raise ValueError(f"a failpoint cannot {action!r}; it can {', '.join(sorted(_ACTIONS))}")
    chance = float(probability or 1)
    if not 0 < chance <= 1:
        raise ValueError(f"the probability of {name} must be above 0 and at most 1, not {probability}")
    return Failpoint(name, action, chance)


def _signal(number: signal.Signals) -> Callable[[], None]:
    return lambda: os.kill(os.getpid(), number)


def _kill_soon() -> None:
    """SIGKILL within two milliseconds: in the middle of what this thread does next."""
    seconds = _armed.random.uniform(0, _SOON_SECONDS)
    threading.Timer(seconds, os.kill, (os.getpid(), signal.SIGKILL)).start()


def _hang() -> None:
    threading.Event().wait()


def _fail() -> None:
    raise RuntimeError("a failpoint wanted this")


def _be_away() -> None:
    raise Unavailable("a failpoint wanted this")


_ACTIONS: Final[Mapping[str, Callable[[], None]]] = {
    "sigkill": _signal(signal.SIGKILL),
    "sigkill_soon": _kill_soon,
    "sigstop": _signal(signal.SIGSTOP),
    "sigterm": _signal(signal.SIGTERM),
    "hang": _hang,
    "error": _fail,
    "unavailable": _be_away,
}
