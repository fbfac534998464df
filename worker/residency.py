"""Which models are loaded: the least recently used make room for the next."""

from collections import OrderedDict
from collections.abc import Callable

from common.domain.catalogue import ModelCard
from worker.engine.port import Engine
from worker.memory import release_memory

Build = Callable[[ModelCard], Engine]


class Residency:
    """At most `capacity` loaded engines, of which one may be busy. Belongs to the device thread alone."""

    def __init__(self, build: Build, *, capacity: int = 1) -> None:
        if capacity < 1:
            raise ValueError("a worker needs room for at least one model")
        self._build = build
        self._capacity = capacity
        self._engines: OrderedDict[str, Engine] = OrderedDict()

    def engine_for(self, card: ModelCard) -> Engine:
        """The loaded engine of this model, loading it, and evicting others first, when needed.

        Raises `JobFailure` (`model_unavailable`) when it cannot be loaded; what was resident before it is then gone
        if room had to be made.
        """
        if card.id not in self._engines:
            self._make_room(self._capacity - 1)
            self._engines[card.id] = self._build(card)
        self._engines.move_to_end(card.id)
        return self._engines[card.id]

    def resident(self) -> tuple[str, ...]:
        """The ids of the loaded models, the most recently used last. Any thread."""
        return tuple(self._engines)

    def clear(self) -> None:
        """Evict everything."""
        self._make_room(0)

    def _make_room(self, left: int) -> None:
        if len(self._engines) <= left:
            return
        while len(self._engines) > left:
            _, engine = self._engines.popitem(last=False)
            engine.close()
        del engine
        release_memory()
