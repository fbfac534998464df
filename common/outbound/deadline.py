"""One end for many steps: a limit per step adds up to none."""

import time


class Deadline:
    """The end, in monotonic time, that all steps of one exchange share."""

    def __init__(self, seconds: float) -> None:
        self._ends_at = time.monotonic() + seconds

    def seconds_left(self) -> float:
        """A positive number. Raises TimeoutError when the time is up."""
        left = self._ends_at - time.monotonic()
        if left <= 0:
            raise TimeoutError("the deadline has passed")
        return left
