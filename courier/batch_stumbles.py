"""Batches over which this program falls, and how often in a row at the same place."""

from common.db.batch_work import BatchWork

Place = tuple[str, int, int]


class Stumbles:
    """Counted by each courier for itself, and forgotten when it ends."""

    def __init__(self) -> None:
        self._counts: dict[str, tuple[Place, int]] = {}

    def add(self, work: BatchWork) -> None:
        """This batch has stumbled where it is now."""
        self._counts[work.id] = (_place(work), self.count(work) + 1)

    def count(self, work: BatchWork) -> int:
        """How often it has stumbled where it is now."""
        place, count = self._counts.get(work.id, (None, 0))
        return count if place == _place(work) else 0

    def forget(self, work: BatchWork) -> None:
        """A turn has gone well."""
        self._counts.pop(work.id, None)


def _place(work: BatchWork) -> Place:
    return (work.state, work.validated, work.inserted)
