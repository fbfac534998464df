"""What happens to a job whose attempt did not succeed: a table, and properties that hold for every input."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.domain.retry import (
    MAX_BACKOFF_SECONDS,
    FailureClass,
    GiveUp,
    TryAgain,
    after_failure,
    after_loss,
    backoff_seconds,
)

tries = st.integers(1, 100)
jitters = st.floats(-1, 1)


FINAL = {
    FailureClass.CLIENT,
    FailureClass.CONFIG,
    FailureClass.OUT_OF_MEMORY,
    FailureClass.INVALID_OUTPUT,
    FailureClass.TIMEOUT,
}


@pytest.mark.parametrize("kind", sorted(FINAL))
def test_what_another_try_cannot_mend_fails_at_once(kind: FailureClass) -> None:
    assert after_failure(kind, "some_code", tries=1, max_tries=3, jitter=0) == GiveUp("some_code")


@pytest.mark.parametrize("kind", sorted(set(FailureClass) - FINAL - {FailureClass.DRAIN}))
def test_what_may_pass_is_tried_again_until_the_budget_is_spent(kind: FailureClass) -> None:
    assert after_failure(kind, "x", tries=1, max_tries=3, jitter=0) == TryAgain(delay_seconds=5)
    assert after_failure(kind, "x", tries=2, max_tries=3, jitter=0) == TryAgain(delay_seconds=15)
    assert after_failure(kind, "x", tries=3, max_tries=3, jitter=0) == GiveUp("x")


@given(tries, jitters)
def test_a_drain_always_gives_the_try_back(spent: int, jitter: float) -> None:
    decision = after_failure(FailureClass.DRAIN, "x", tries=spent, max_tries=1, jitter=jitter)
    assert decision == TryAgain(refund=True)


@given(tries, jitters)
def test_backoff_is_bounded_and_positive(spent: int, jitter: float) -> None:
    assert 0 < backoff_seconds(spent, jitter) <= MAX_BACKOFF_SECONDS * 1.2


def test_the_first_loss_is_made_good_at_once_and_later_ones_back_off() -> None:
    first = after_loss(joined=True, alone=False, solo_crashes=0, tries=1, max_tries=3, jitter=0)
    second = after_loss(joined=True, alone=False, solo_crashes=0, tries=2, max_tries=3, jitter=0)
    assert first == TryAgain(solo=True)
    assert second == TryAgain(delay_seconds=15, solo=True)


@given(tries, st.integers(1, 100), jitters)
def test_a_job_that_had_not_joined_is_never_blamed_and_alone_needs_no_solo(
    spent: int, budget: int, jitter: float
) -> None:
    decision = after_loss(joined=False, alone=True, solo_crashes=9, tries=spent, max_tries=budget, jitter=jitter)
    assert decision != GiveUp("poisoned")
    assert not (isinstance(decision, TryAgain) and decision.solo)


@given(tries, st.integers(1, 100), st.integers(0, 5), jitters)
def test_a_crash_in_company_never_poisons(spent: int, budget: int, crashes: int, jitter: float) -> None:
    decision = after_loss(joined=True, alone=False, solo_crashes=crashes, tries=spent, max_tries=budget, jitter=jitter)
    assert decision != GiveUp("poisoned")
