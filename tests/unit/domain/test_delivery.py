"""What follows from an attempt to deliver: the schedule, what receivers ask for, and when to stop."""

from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.domain.delivery import (
    MOST_RETRY_AFTER_SECONDS,
    Again,
    Delivered,
    Disable,
    GiveUp,
    Outcome,
    decide,
    retry_after_seconds,
)
from common.domain.webhook_events import DEFAULT_EVENTS, EVENTS, event_id
from common.settings import Settings

NOW = datetime(2026, 11, 21, 8, 0, tzinfo=UTC)
PAUSES = Settings(_env_file=None).webhook_pauses
DAY = 86_400.0


def after(attempt: int, status: int | None, *, wait: float | None = None, jitter: float = 0.0, failing: float = 0.0):  # type: ignore[no-untyped-def]
    return decide(attempt, Outcome(status, wait), PAUSES, failing, 5 * DAY, jitter)


def test_the_schedule_is_the_published_one() -> None:
    pauses = [after(attempt, 500) for attempt in range(1, 10)]
    hour = 3600.0
    published = (5, 300, 1800, 2 * hour, 5 * hour, 10 * hour, 14 * hour, 20 * hour, 24 * hour)
    assert pauses == [Again(float(seconds)) for seconds in published]
    assert after(10, 500) == GiveUp()


@pytest.mark.parametrize("status", [200, 201, 202, 204, 299])
def test_any_2xx_is_delivered(status: int) -> None:
    assert after(3, status) == Delivered()
    assert after(10, status, failing=100 * DAY) == Delivered()


@pytest.mark.parametrize("status", [None, 100, 199, 301, 302, 307, 400, 404, 429, 500, 503])
def test_everything_else_fails_redirects_too(status: int | None) -> None:
    assert after(1, status) == Again(5.0)


def test_410_disables_whatever_the_attempt() -> None:
    assert {after(attempt, 410) for attempt in (1, 5, 10)} == {Disable("gone")}


def test_five_days_of_failures_alone_disable() -> None:
    assert after(2, 500, failing=5 * DAY - 1) == Again(300.0)
    assert after(2, 500, failing=5 * DAY) == Disable("failing")


def test_one_failure_after_a_quiet_time_disables_nothing() -> None:
    assert after(1, 500, failing=50 * DAY) == Again(5.0)


@given(
    attempt=st.integers(1, 12),
    status=st.none() | st.integers(100, 599).filter(lambda one: one != 410 and not 200 <= one < 300),
    wait=st.none() | st.floats(0, 1e9),
    jitter=st.floats(-1, 1),
)
def test_a_pause_is_within_a_fifth_of_the_schedule_and_never_below_retry_after(
    attempt: int, status: int | None, wait: float | None, jitter: float
) -> None:
    decision = after(attempt, status, wait=wait, jitter=jitter)
    if attempt > len(PAUSES):
        assert decision == GiveUp()
        return
    assert isinstance(decision, Again)
    asked = min(wait or 0.0, MOST_RETRY_AFTER_SECONDS)
    assert decision.seconds >= asked
    assert decision.seconds >= PAUSES[attempt - 1] * 0.8 - 1e-9
    assert decision.seconds <= max(PAUSES[attempt - 1] * 1.2 + 1e-9, asked)


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("120", 120.0),
        (" 7 ", 7.0),
        ("0", 0.0),
        ("9" * 400, 999_999_999_999.0),
        (format_datetime(NOW + timedelta(seconds=90), usegmt=True), 90.0),
        (format_datetime(NOW - timedelta(days=1), usegmt=True), 0.0),
        ("Sun, 06 Nov 1994 08:49:37 -0000", 0.0),
        (None, None),
        ("", None),
        ("-5", None),
        ("1.5", None),
        ("soon", None),
        ("١٢", None),
        ("Mon, 99 Foo 2026 08:00:00 GMT", None),
    ],
)
def test_retry_after_is_read_as_seconds_or_as_a_date(header: str | None, seconds: float | None) -> None:
    assert retry_after_seconds(header, NOW) == seconds


@given(st.text())
def test_whatever_stands_in_retry_after_is_read_or_ignored(header: str) -> None:
    seconds = retry_after_seconds(header, NOW)
    assert seconds is None or seconds >= 0


def test_an_event_has_the_same_id_for_ever() -> None:
    assert event_id("job_1", 3) == event_id("job_1", 3) == "evt_" + event_id("job_1", 3)[4:]
    assert len({event_id("job_1", 3), event_id("job_1", 4), event_id("job_2", 3), event_id("job_", 13)}) == 4
    assert event_id("job_0123", 4) == "evt_cfe237e98a345091ba1d6ca6c1929199"


def test_started_is_told_on_request_only() -> None:
    assert set(EVENTS) - set(DEFAULT_EVENTS) == {"job.started"}
