"""How long the jobs of a struck worker took to be runnable again, from the rows of their attempts."""

import signal
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Row

from common.domain.lifecycle import Outcome
from tests.faults.deployment import Blow
from tests.faults.invariants import Facts


@dataclass(frozen=True, slots=True)
class Rescue:
    """A lost attempt whose worker had been struck, in seconds from the blow by the database clock.

    `rescued`: until the sweeper had put the job back, or ended it. `claimed`: until its next attempt; None without one.
    `backs_off`: it was not its first loss, so that it was put back with a delay, by design.
    """

    job_id: str
    fence: int
    rescued: float
    claimed: float | None
    backs_off: bool


def rescues(facts: Facts, blows: Sequence[Blow]) -> list[Rescue]:
    """Every attempt that was lost to a blow; the blow is the last one before the loss."""
    found = []
    for tried in facts.attempts.values():
        for place, row in enumerate(tried):
            struck_at = _struck_at(row, blows)
            if row.outcome == Outcome.LOST and struck_at is not None:
                found.append(_rescue(tried, place, struck_at))
    return found


def lost_without_a_blow(facts: Facts, blows: Sequence[Blow]) -> int:
    """Attempts whose lease ran out although nobody had struck their worker: the machine was too busy to renew it."""
    lost = [row for tried in facts.attempts.values() for row in tried if row.outcome == Outcome.LOST]
    return sum(_struck_at(row, blows) is None for row in lost)


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that at least this share of the values does not exceed; 0 of none."""
    ordered = sorted(values)
    return ordered[max(0, -(-int(share * 1000) * len(ordered) // 1000) - 1)] if ordered else 0.0


def _rescue(tried: Sequence[Row[Any]], place: int, struck_at: datetime) -> Rescue:
    row = tried[place]
    following = tried[place + 1] if place + 1 < len(tried) else None
    spent = sum(one.outcome != Outcome.RELEASED for one in tried[: place + 1])
    return Rescue(
        job_id=row.job_id,
        fence=row.fence,
        rescued=(row.ended_at - struck_at).total_seconds(),
        claimed=None if following is None else (following.claimed_at - struck_at).total_seconds(),
        backs_off=spent > 1,
    )


def _struck_at(row: Row[Any], blows: Sequence[Blow]) -> datetime | None:
    """When the attempt's worker was struck, at the earliest its claim, which may have been under way at that moment."""
    moments = [blow.at for blow in blows if blow.worker_id == row.worker_id and _may_have_ended(blow, row)]
    return max(max(moments), row.claimed_at) if moments else None


def _may_have_ended(blow: Blow, row: Row[Any]) -> bool:
    """A stopped worker claims nothing before it goes on, so what it claims later is no victim of the stop."""
    is_before_the_end = row.ended_at is not None and blow.at <= row.ended_at
    is_victim = blow.signal is signal.SIGKILL or (blow.signal is signal.SIGSTOP and row.claimed_at <= blow.at)
    return is_before_the_end and is_victim
