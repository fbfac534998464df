"""How much slower or faster than predicted each model is, for the order of service: what workers measured, cached."""

import time
from collections.abc import Callable
from typing import Final

import structlog

from common.db.engine import Database
from common.db.outlook import look_at_paces
from common.domain.catalogue import Catalogue
from common.domain.errors import Unavailable
from common.domain.outlook import scales

_KEPT_SECONDS: Final = 5.0

_log = structlog.get_logger()


class Paces:
    """The scale of each model by pool, read anew when it is five seconds old. Thread-safe.

    `fresh_seconds`: a worker counts that was heard within them; `clock` gives monotonic seconds.
    """

    def __init__(
        self,
        database: Database,
        catalogue: Catalogue,
        *,
        fresh_seconds: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._database = database
        self._guesses = {card.id: card.seconds_per_megapixel_step for card in catalogue}
        self._fresh_seconds = fresh_seconds
        self._clock = clock
        self._seen: dict[str, tuple[float, dict[str, float]]] = {}

    def scale(self, pool: str, model: str) -> float:
        """Measured device seconds / predicted ones of this model in this pool, > 0; 1 while nobody has measured it.

        May read the database, and never raises: while that is away the newest known one stands.
        """
        moment, known = self._seen.get(pool, (None, {}))
        if moment is None or self._clock() - moment >= _KEPT_SECONDS:
            known = self._look(pool, known)
            self._seen[pool] = (self._clock(), known)
        return known.get(model, 1.0)

    def _look(self, pool: str, known: dict[str, float]) -> dict[str, float]:
        try:
            with self._database.read() as connection:
                paces, _ = look_at_paces(connection, pool, self._fresh_seconds)
        except Unavailable:
            return known
        except Exception as error:  # the edge of a look: a submit is charged by what is known
            _log.error("paces.failed", exc_info=error)
            return known
        # What a worker that is gone has measured still says more than a guess.
        return known | scales(paces, self._guesses)
