"""Waiting in tests: for a condition, with a deadline. The one place of the tests that sleeps."""

import time
from collections.abc import Callable

_LOOK_SECONDS = 0.01


def wait_until(condition: Callable[[], object], *, seconds: float = 20, what: str = "the condition") -> None:
    """Return as soon as `condition()` is true; fails the test when that takes longer than `seconds`."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"{what} did not come about within {seconds:g} seconds")
        time.sleep(_LOOK_SECONDS)
