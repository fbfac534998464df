"""The table of moves keeps its own rules."""

from itertools import product

from common.domain.lifecycle import INITIAL, MOVES, JobState, after_return


def test_nothing_leaves_a_terminal_state() -> None:
    assert not [move for move in MOVES if move.source.is_terminal]


def test_every_state_can_be_reached_and_every_other_one_left() -> None:
    reached = {INITIAL} | {target for move in MOVES for target in move.targets}
    assert reached == set(JobState)
    assert {move.source for move in MOVES} == {state for state in JobState if not state.is_terminal}


def test_only_the_holder_of_the_fence_moves_a_running_job() -> None:
    assert all(move.fenced == (move.source is JobState.RUNNING) for move in MOVES)


def test_a_wish_to_cancel_comes_before_a_passed_deadline_and_both_before_the_queue() -> None:
    for wish, late in product((True, False), repeat=2):
        expected = JobState.CANCELED if wish else JobState.FAILED if late else JobState.QUEUED
        assert after_return(cancel_requested=wish, deadline_passed=late) is expected


def test_moves_have_different_names() -> None:
    assert len({move.name for move in MOVES}) == len(MOVES)
