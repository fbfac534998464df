"""What balancer and fault proxy share: a server on an event loop of its own, in a thread beside the test."""

import asyncio
import threading
from abc import ABC, abstractmethod
from collections.abc import Coroutine
from typing import Any, Final, Self

_CALL_SECONDS: Final = 10.0


class OnALoop(ABC):
    """A context manager: `_begin` and `_end` run on the loop, at the start and the end of the block."""

    def __init__(self, name: str) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name=name, daemon=True)

    def __enter__(self) -> Self:
        """Listen."""
        self._thread.start()
        self._await(self._begin())
        return self

    def __exit__(self, *_: object) -> None:
        """End every connection."""
        self._await(self._end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _await(self, work: Coroutine[Any, Any, Any]) -> Any:
        """What this answers on the loop; any other thread."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(_CALL_SECONDS)

    @abstractmethod
    async def _begin(self) -> None:
        """Listen."""

    @abstractmethod
    async def _end(self) -> None:
        """End every connection."""
