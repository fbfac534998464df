"""Waiting that can be stopped at once, and that says why it waits when it is for long."""

import threading
import time
from collections.abc import Callable
from typing import Final

from client.folder.errors import Stopped

RETRY_SECONDS: Final = 900.0
"""For so long a server may be away before a run gives up."""

_LONG_WAIT: Final = 1.5
_SAY_AGAIN_SECONDS: Final = 20.0


class Patience:
    """The `sleep` of a client whose run can be stopped; `say` is told of long waits, by any thread."""

    def __init__(
        self, say: Callable[[str], object], clock: Callable[[], float] = time.monotonic, *, server: str = "the server"
    ) -> None:
        self._say = say
        self._clock = clock
        self._server = server
        self._stopped = threading.Event()
        self._said_at = float("-inf")

    def stop(self) -> None:
        """End every wait, now and from now on."""
        self._stopped.set()

    def sleep_until_retry(self, seconds: float) -> None:
        """Wait before a request is repeated. Raises `Stopped`."""
        if seconds >= _LONG_WAIT and self._clock() - self._said_at > _SAY_AGAIN_SECONDS:
            self._said_at = self._clock()
            self._say(f"no answer from {self._server}; trying again for up to {RETRY_SECONDS / 60:.0f} minutes")
        self.rest(seconds)

    def rest(self, seconds: float) -> None:
        """Wait between two looks. Raises `Stopped`."""
        if self._stopped.wait(seconds):
            raise Stopped("stopped")

    def check(self) -> None:
        """Raises `Stopped` if the run is."""
        self.rest(0)
