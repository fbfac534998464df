"""When the client tries again."""

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from client.patience import parse_retry_after, poll_wait, reconnect_wait, retry_wait


def test_retries_double_up_to_five_seconds() -> None:
    assert [retry_wait(attempt, None) for attempt in (1, 2, 3, 6, 20)] == pytest.approx([0.2, 0.4, 0.8, 5.0, 5.0])


def test_what_the_server_asks_for_goes_before_our_own_rhythm() -> None:
    assert retry_wait(1, 7.0) == 7.0
    assert poll_wait(0, 5.0) == 5.0


def test_the_smallest_suggestion_gives_way_when_polling() -> None:
    assert poll_wait(0, 1.0) == pytest.approx(0.1)


def test_no_suggestion_makes_a_poller_sleep_for_ever() -> None:
    assert poll_wait(0, 86_400.0) == 30.0


def test_polls_grow_from_a_tenth_to_one_second() -> None:
    waits = [poll_wait(polls, None) for polls in range(40)]
    assert waits[0] == pytest.approx(0.1)
    assert waits == sorted(waits)
    assert waits[-1] == 1.0


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("3", 3.0),
        ("Sat, 21 Nov 2026 08:00:30 GMT", 30.0),
        ("Sat, 21 Nov 2026 07:00:00 GMT", 0.0),
        ("soon", None),
        ("²", None),
        ("٣", None),
        ("Sat, 21 Nov 2026 08:00:30 -0000", None),
        ("Sat, 21 Nov 2026 08:00:30 +99999999999999999999", None),
        ("Sat, 21 Nov 99999999999999999999 08:00:30 GMT", None),
    ],
)
def test_retry_after_has_two_forms(text: str, seconds: float | None) -> None:
    now = datetime(2026, 11, 21, 8, 0, 0, tzinfo=UTC)
    assert parse_retry_after({"Retry-After": text}, now) == seconds
    assert parse_retry_after({}, now) is None


@given(st.text() | st.from_regex(r"Sat, [0-9]+ Nov [0-9]+ [0-9]+:[0-9]+:[0-9]+ [+-][0-9]+"))
def test_whatever_retry_after_says_is_no_reason_to_fail(text: str) -> None:
    seconds = parse_retry_after({"Retry-After": text})
    assert seconds is None or seconds >= 0


def test_streams_come_back_later_each_time_but_never_at_the_same_moment() -> None:
    assert [reconnect_wait(attempt, None, None, 0.0) for attempt in (1, 2, 3, 4, 90)] == [1.0, 2.0, 4.0, 5.0, 5.0]
    assert reconnect_wait(1, None, None, 1.0) == 0.5
    assert reconnect_wait(4, None, None, 1.0) == 2.5


def test_streams_come_back_when_the_server_wants_them_to() -> None:
    assert reconnect_wait(1, 0.2, None, 0.0) == 0.2
    assert reconnect_wait(3, 10.0, None, 0.0) == 10.0
    assert reconnect_wait(1, 86_400.0, None, 0.0) == 30.0
    assert reconnect_wait(1, 0.0, None, 0.0) == 0.1, "never in a hot loop"
    assert reconnect_wait(1, 1.0, 7.0, 1.0) == 7.0
