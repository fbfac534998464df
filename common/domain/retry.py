"""What happens to a job whose attempt did not succeed. Pure: facts in, a decision out."""

from dataclasses import dataclass
from enum import StrEnum


class FailureClass(StrEnum):
    """What kind of thing went wrong in an attempt; `worker.failures` sorts exceptions into these.

    Before the job comes here, the worker has tried what helps in place: out of memory once more with less memory, an
    invalid output once with a float32 VAE, transient trouble five times.
    """

    CLIENT = "client"
    CONFIG = "config"
    OUT_OF_MEMORY = "out_of_memory"
    INVALID_OUTPUT = "invalid_output"
    DEVICE_FAULT = "device_fault"
    WORKER_LOST = "worker_lost"
    TRANSIENT = "transient"
    DRAIN = "drain"
    TIMEOUT = "timeout"
    UNKNOWN = "unknown"


class ProcessEnd(StrEnum):
    """How a worker process ended, as its supervisor saw it; without one nobody knows."""

    CRASHED = "crashed"
    KILLED = "killed"


@dataclass(frozen=True, slots=True)
class GiveUp:
    """Fail the job for good with this code."""

    code: str


@dataclass(frozen=True, slots=True)
class TryAgain:
    """Put the job back after `delay_seconds`; `solo`: with a worker to itself; `refund`: the try is given back."""

    delay_seconds: float = 0.0
    solo: bool = False
    refund: bool = False


Decision = GiveUp | TryAgain

_FINAL = frozenset(
    {
        FailureClass.CLIENT,
        FailureClass.CONFIG,
        FailureClass.OUT_OF_MEMORY,
        FailureClass.INVALID_OUTPUT,
        FailureClass.TIMEOUT,
    }
)
MAX_BACKOFF_SECONDS = 300.0
SOLO_CRASHES_TO_POISON = 2


def backoff_seconds(tries: int, jitter: float) -> float:
    """5 x 3^(tries - 1) seconds, at most five minutes, spread by `jitter` in [-1, 1] to ± 20 %."""
    return min(MAX_BACKOFF_SECONDS, 5.0 * 3.0 ** max(0, tries - 1)) * (1.0 + 0.2 * jitter)


def after_failure(kind: FailureClass, code: str, *, tries: int, max_tries: int, jitter: float) -> Decision:
    """The decision after an attempt whose worker lives. `tries` counts this attempt."""
    if kind is FailureClass.DRAIN:
        return TryAgain(refund=True)
    if kind in _FINAL or tries >= max_tries:
        return GiveUp(code)
    return TryAgain(delay_seconds=backoff_seconds(tries, jitter))


def is_solo_crash(*, joined: bool, alone: bool, end: ProcessEnd | None) -> bool:
    """Whether the loss of a worker speaks against the job: it was on the device, with nothing else in the process, and
    nobody killed that process from outside.
    """
    return joined and alone and end is not ProcessEnd.KILLED


def after_loss(
    *,
    joined: bool,
    alone: bool,
    solo_crashes: int,
    tries: int,
    max_tries: int,
    jitter: float,
    end: ProcessEnd | None = None,
) -> Decision:
    """The decision after a worker vanished with the job. `solo_crashes` counts this one when it was a crash alone.

    The first rescue runs at once, later ones back off. A crash in company proves nothing against this job, but it
    next runs with a worker to itself; so does one that was claimed together with others, joined or not, because a
    process may die before it could say who had joined. A job that had not joined cannot have crashed anything, and one
    whose worker was killed from outside has done nothing: it runs again at once, and alone only after a second time,
    since a system without memory kills from outside too.
    """
    if is_solo_crash(joined=joined, alone=alone, end=end) and solo_crashes >= SOLO_CRASHES_TO_POISON:
        return GiveUp("poisoned")
    if tries >= max_tries:
        return GiveUp("worker_lost")
    if end is ProcessEnd.KILLED:
        return TryAgain(solo=tries > 1 and not alone)
    delay = 0.0 if tries <= 1 else backoff_seconds(tries, jitter)
    return TryAgain(delay_seconds=delay, solo=joined or not alone)
