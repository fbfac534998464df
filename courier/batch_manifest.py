"""The manifest of a batch as a courier reads it: line by line from the store, from where it had got to."""

import hashlib
from collections.abc import Callable, Generator, Iterator
from itertools import islice

from common.db.batch_work import BatchWork
from common.requests.lines import iterate_lines, read_custom_id
from common.storage.port import ObjectStore


class Manifest:
    """The lines from `start` on, with their numbers, and which custom ids those before have taken.

    Raises `ObjectMissing` now, and `StoreUnavailable` now or at any line. Never holds the file. `hold_on` is called
    with every line before `start`.
    """

    def __init__(self, store: ObjectStore, work: BatchWork, start: int, hold_on: Callable[[], None]) -> None:
        self._pieces = store.stream(work.manifest_key)
        self._lines = enumerate(islice(iterate_lines(self._pieces), work.total))
        self._taken: set[bytes] = set()
        for number, raw in islice(self._lines, start):
            self.take_id(read_custom_id(number, raw))
            hold_on()

    def __iter__(self) -> Iterator[tuple[int, bytes]]:
        """Goes on where the last look ended."""
        return self._lines

    def close(self) -> None:
        """Let go of the file."""
        if isinstance(self._pieces, Generator):
            self._pieces.close()

    def take_id(self, custom_id: str) -> bool:
        """The next line has this id; False when an earlier one has it."""
        digest = hashlib.blake2b(custom_id.encode(), digest_size=16).digest()
        is_free = digest not in self._taken
        self._taken.add(digest)
        return is_free
