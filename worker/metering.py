"""Who took how much of the device: the seconds of a tick, shared by the frames that were in it."""

from collections.abc import Callable, Collection, Iterable

from worker.engine.port import FrameRef


class Meter:
    """Charges every frame its share of the seconds in which it was in the tick that ran; the shares add up to all of
    them. For the device thread alone.

    `clock` gives seconds in which nobody waited for others; `charge` takes frames and the seconds of each of them.
    """

    def __init__(self, clock: Callable[[], float], charge: Callable[[Collection[FrameRef], float], None]) -> None:
        self._clock = clock
        self._charge = charge
        self._refs: set[FrameRef] = set()
        self._since = 0.0

    def begin(self, refs: Iterable[FrameRef]) -> None:
        """A tick of these frames begins."""
        self._refs, self._since = set(refs), self._clock()

    def leave(self, ref: FrameRef) -> None:
        """A frame leaves during the tick, with its share until now."""
        if ref in self._refs:
            self.settle()
            self._refs.discard(ref)

    def settle(self) -> None:
        """Charge what has passed since the last time; at the end of a tick, too."""
        now = self._clock()
        if self._refs:
            self._charge(self._refs, max(0.0, now - self._since) / len(self._refs))
        self._since = now
