"""A batch while it runs: what has finished since the last look, asked for with as little as it takes."""

from collections.abc import Callable, Iterator, Sequence
from typing import Final, Protocol

from client.batch import Batch, BatchResult
from client.folder.crew import Crew
from client.folder.patience import Patience
from client.folder.plan import Entry

PAGE: Final = 1000

_SHORTEST_REST: Final = 1.0
_LONGEST_REST: Final = 5.0
_GROWTH: Final = 1.5


class BatchSource(Protocol):
    """The part of `Batches` that this needs."""

    def get(self, batch_id: str) -> Batch:
        """See `Batches.get`."""

    def results(
        self, batch: Batch | str, *, after_line: int | None = None, limit: int | None = None
    ) -> Iterator[BatchResult]:
        """See `Batches.results`."""


class Following:
    """Follows the batch whose lines are `entries`, of which those named in `known` have been dealt with before."""

    def __init__(self, batches: "BatchSource", batch_id: str, entries: Sequence[Entry], known: set[str]) -> None:
        self._batches = batches
        self._batch_id = batch_id
        self._entries = entries
        self._known = known

    def follow(
        self,
        crew: Crew,
        write: Callable[[tuple[Entry, BatchResult]], None],
        patience: Patience,
        show: Callable[[Batch], object],
    ) -> Batch:
        """The finished batch, once all its results have been given to `write`.

        Looks once a second while something changes, every five when nothing does. Pages that are complete are not
        asked for again.
        """
        rest = _SHORTEST_REST
        while True:
            batch = self._batches.get(self._batch_id)
            show(batch)
            before = len(self._known)
            self._look(batch, crew, write)
            crew.check()
            if batch.is_finished:
                crew.finish()
                show(batch)
                return batch
            rest = _SHORTEST_REST if len(self._known) > before else min(rest * _GROWTH, _LONGEST_REST)
            patience.rest(rest)

    def _look(self, batch: Batch, crew: Crew, write: Callable[[tuple[Entry, BatchResult]], None]) -> None:
        """Give what is new in the first pages that are not complete, until all that the batch counts is found."""
        if batch.status == "rejected":  # no line became a job; the batch itself has the errors
            return
        counts = batch.counts
        finished = counts.succeeded + counts.failed + counts.canceled
        for first in range(0, len(self._entries), PAGE):
            is_all = len(self._known) >= finished
            if (is_all and not batch.is_finished) or (first > 0 and first >= batch.inserted):
                return
            if not self._is_complete(first):
                crew.give(write, self._news(first))

    def _is_complete(self, first: int) -> bool:
        return all(entry.custom_id in self._known for entry in self._entries[first : first + PAGE])

    def _news(self, first: int) -> list[tuple[Entry, BatchResult]]:
        news = []
        for result in self._batches.results(self._batch_id, after_line=first - 1 if first else None, limit=PAGE):
            entry = self._entries[result.line]
            if result.is_finished and entry.custom_id not in self._known:
                self._known.add(entry.custom_id)
                news.append((entry, result))
        return news
