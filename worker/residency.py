"""Which models are loaded: the least recently used make room for the next."""

from collections import OrderedDict
from collections.abc import Callable, Collection

import structlog

from common.domain.catalogue import ModelCard
from worker.engine.port import Engine
from worker.memory import release_memory

Build = Callable[[ModelCard], Engine]

_log = structlog.get_logger()


class Residency:
    """Loaded engines within `budget_bytes` of weights; the one in use may be larger than that alone.

    What a model takes is measured when it is loaded first and remembered after it has left; an unknown one is taken to
    be as large as the largest known. Belongs to the device thread alone.
    """

    def __init__(self, build: Build, *, budget_bytes: int) -> None:
        self._build = build
        self._budget_bytes = budget_bytes
        self._engines: OrderedDict[str, Engine] = OrderedDict()
        self._sizes: dict[str, int] = {}

    def has_room_for(self, card: ModelCard, busy: Collection[str]) -> bool:
        """Whether this model is loaded or can be without evicting one of `busy`. Without any of those, always."""
        if card.id in self._engines or not busy:
            return True
        return self._used(list(busy)) + self._expected(card.id) <= self._budget_bytes

    def engine_for(self, card: ModelCard, busy: Collection[str] = ()) -> Engine:
        """The loaded engine of this model, loading it, and evicting others first, when needed, but none of `busy`.

        Raises `JobFailure` (`model_unavailable`) when it cannot be loaded; what was resident before it is then gone
        if room had to be made.
        """
        for model_id in busy:
            self._engines.move_to_end(model_id)
        if card.id not in self._engines:
            self._make_room(self._expected(card.id), keep=len(busy))
            self._engines[card.id] = self._build(card)
            self._sizes[card.id] = self._engines[card.id].weight_bytes()
            self._make_room(0, keep=len(busy) + 1)
        self._engines.move_to_end(card.id)
        return self._engines[card.id]

    def resident(self) -> tuple[str, ...]:
        """The ids of the loaded models, the most recently used last. Any thread."""
        return tuple(self._engines)

    def clear(self) -> None:
        """Evict everything."""
        self._evict(len(self._engines))

    def _expected(self, model_id: str) -> int:
        if model_id in self._sizes:
            return self._sizes[model_id]
        return max(self._sizes.values(), default=0)

    def _make_room(self, wanted_bytes: int, *, keep: int) -> None:
        """Evict the oldest until `wanted_bytes` more fit; the newest `keep` stay in any case."""
        engines = list(self._engines)
        evicted = 0
        while len(engines) - evicted > keep and self._used(engines[evicted:]) + wanted_bytes > self._budget_bytes:
            evicted += 1
        self._evict(evicted)

    def _used(self, ids: list[str]) -> int:
        return sum(self._sizes[model_id] for model_id in ids)

    def _evict(self, count: int) -> None:
        if not count:
            return
        for _ in range(count):
            model_id, engine = self._engines.popitem(last=False)
            engine.close()
            _log.info("model.evicted", model=model_id)
        del engine
        release_memory()
