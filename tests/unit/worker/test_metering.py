"""Shares of the device: they add up to the time that ticks took, whoever comes and goes."""

from collections import defaultdict
from collections.abc import Collection

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.engine.port import FrameRef
from worker.metering import Meter

REFS = [FrameRef(f"job_{number}", 1, 0) for number in range(4)]

ticks = st.lists(
    st.tuples(
        st.sets(st.integers(0, 3), min_size=1),
        st.lists(st.tuples(st.integers(0, 3), st.floats(0, 10)), max_size=4),
        st.floats(0, 10),
    ),
    max_size=8,
)


class Hand:
    """A clock that the test moves, and what was charged."""

    def __init__(self) -> None:
        self.now = 0.0
        self.charged = defaultdict[FrameRef, float](float)
        self.meter = Meter(lambda: self.now, self._charge)

    def _charge(self, refs: Collection[FrameRef], seconds: float) -> None:
        for ref in refs:
            self.charged[ref] += seconds


@given(ticks)
def test_shares_add_up_to_the_time_in_which_anybody_was_there(
    history: list[tuple[set[int], list[tuple[int, float]], float]],
) -> None:
    hand, busy = Hand(), 0.0
    for members, leavings, rest in history:
        present = {REFS[number] for number in members}
        hand.meter.begin(present)
        for number, seconds in leavings:
            hand.now += seconds
            busy += seconds if present else 0.0
            hand.meter.leave(REFS[number])
            # What passes until somebody leaves is charged with it; a stranger's leaving charges nothing.
            present.discard(REFS[number])
        hand.now += rest
        busy += rest if present else 0.0
        hand.meter.settle()
        hand.now += 5.0  # between ticks the device is nobody's
    assert sum(hand.charged.values()) == pytest.approx(busy)


def test_who_leaves_early_pays_for_its_time_alone() -> None:
    hand = Hand()
    hand.meter.begin(REFS[:2])
    hand.now = 4.0
    hand.meter.leave(REFS[0])
    hand.now = 7.0
    hand.meter.settle()
    assert dict(hand.charged) == {REFS[0]: 2.0, REFS[1]: 5.0}
