"""Whose turn the device is: in proportion to the frames, with no credit for time spent elsewhere."""

from collections import defaultdict

from hypothesis import given, settings
from hypothesis import strategies as st

from worker.turns import TurnTaker

MODELS = "abcd"
# Sums of these are exact, so that the bounds below are too.
ticks = st.integers(1, 80).map(lambda eighths: eighths / 8)
crowds = st.dictionaries(st.sampled_from(MODELS), st.sampled_from([1, 2, 4, 8, 16]), min_size=1)


def take(turns: TurnTaker, frames: dict[str, int], seconds: float) -> str:
    model = turns.next(frames)
    turns.charge(model, seconds, frames[model])
    return model


@settings(deadline=None)
@given(crowds, st.lists(ticks, min_size=1, max_size=200))
def test_every_backlogged_model_gets_seconds_in_proportion_to_its_frames_within_one_tick(
    frames: dict[str, int], lengths: list[float]
) -> None:
    turns, seconds = TurnTaker(), dict.fromkeys(frames, 0.0)
    for length in lengths:
        seconds[take(turns, frames, length)] += length
        shares = [seconds[model] / frames[model] for model in frames]
        assert max(shares) - min(shares) <= max(lengths) / min(frames.values())


@settings(deadline=None)
@given(crowds, st.lists(st.tuples(st.booleans(), ticks), min_size=1, max_size=200), ticks)
def test_proportion_holds_within_one_tick_of_each_model_whatever_its_ticks_take(
    frames: dict[str, int], lengths: list[tuple[bool, float]], slow: float
) -> None:
    """A model is ahead of another by no more than its own last tick."""
    turns, seconds, last = TurnTaker(), dict.fromkeys(frames, 0.0), dict.fromkeys(frames, 0.0)
    for is_slow, length in lengths:
        model = turns.next(frames)
        last[model] = slow if is_slow else length
        turns.charge(model, last[model], frames[model])
        seconds[model] += last[model]
        for one in frames:
            for other in frames:
                ahead = seconds[one] / frames[one] - seconds[other] / frames[other]
                assert ahead <= last[one] / frames[one]


@settings(deadline=None)
@given(crowds, st.lists(ticks, max_size=100), st.integers(1, 16), st.lists(ticks, min_size=1, max_size=50))
def test_a_newcomer_gets_no_credit_for_the_time_before(
    frames: dict[str, int], before: list[float], crowd: int, after: list[float]
) -> None:
    """From its coming on it gets its share and no more: never a tick's worth ahead of any other."""
    turns, seconds = TurnTaker(), defaultdict[str, float](float)
    for length in before:
        take(turns, frames, length)
    everyone = frames | {"new": crowd}
    for length in after:
        seconds[take(turns, everyone, length)] += length
    for model in frames:
        ahead = seconds["new"] / crowd - seconds[model] / frames[model]
        assert ahead <= max(before + after) / min(everyone.values()) * 2


def test_a_newcomer_begins_where_the_one_with_the_least_stands() -> None:
    turns = TurnTaker()
    for _ in range(100):
        take(turns, {"a": 1, "b": 1}, 1.0)
    first = [take(turns, {"a": 1, "b": 1, "new": 1}, 1.0) for _ in range(6)]
    assert sorted(first[:3]) == sorted(first[3:]) == ["a", "b", "new"]


def test_a_model_that_comes_back_owes_nothing_and_is_owed_nothing() -> None:
    turns = TurnTaker()
    take(turns, {"a": 1, "b": 1}, 50.0)
    for _ in range(10):
        take(turns, {"b": 1}, 100.0)
    order = [take(turns, {"a": 1, "b": 1}, 1.0) for _ in range(10)]
    assert {order.count("a"), order.count("b")} == {5}


def test_a_lone_model_has_every_turn() -> None:
    turns = TurnTaker()
    assert {take(turns, {"a": 3}, 1.0) for _ in range(5)} == {"a"}
