"""How many rows may share a forward pass: what memory allows, and what the measured time of a pass makes sensible."""

from collections import defaultdict
from dataclasses import dataclass, field
from math import ceil

_SMOOTHING = 0.2
_KNEE = 0.95
_LEAST_SAMPLES = 3
_RAISE_AFTER = 200
_UNMEASURED_ROWS = 4
_LEAST_ROWS = 16
_REMEMBERED_PASSES = 1000


@dataclass(slots=True)
class TickTimes:
    """Seconds of a forward pass by its rows, learned as it runs: T(rows) = a + b x rows.

    What was not seen in the last thousand passes is forgotten: a slow moment must not decide for good.
    """

    _seconds: dict[int, float] = field(default_factory=dict)
    _counts: dict[int, int] = field(default_factory=lambda: defaultdict(int))
    _seen_at: dict[int, int] = field(default_factory=dict)
    _passes: int = 0

    def learn(self, rows: int, seconds: float) -> None:
        """A pass over `rows` rows took so long."""
        known = self._seconds.get(rows)
        self._seconds[rows] = seconds if known is None else known + _SMOOTHING * (seconds - known)
        self._counts[rows] += 1
        self._passes += 1
        self._seen_at[rows] = self._passes
        for old in [one for one, seen_at in self._seen_at.items() if self._passes - seen_at > _REMEMBERED_PASSES]:
            del self._seconds[old], self._counts[old], self._seen_at[old]

    def line(self) -> tuple[float, float] | None:
        """(a, b) by least squares over what was seen often enough; None before two different numbers of rows were."""
        points = [(rows, self._seconds[rows]) for rows, count in self._counts.items() if count >= _LEAST_SAMPLES]
        if len(points) < 2:
            return None
        mean_rows = sum(rows for rows, _ in points) / len(points)
        mean_seconds = sum(seconds for _, seconds in points) / len(points)
        spread = sum((rows - mean_rows) ** 2 for rows, _ in points)
        slope = sum((rows - mean_rows) * (seconds - mean_seconds) for rows, seconds in points) / spread
        return mean_seconds - slope * mean_rows, slope

    def seconds(self, rows: int) -> float | None:
        """The expected time of a pass over so many rows; None while nothing like it was seen."""
        if rows in self._seconds:
            return self._seconds[rows]
        if (line := self.line()) is not None:
            return max(0.0, line[0] + line[1] * rows)
        if not self._seconds:
            return None
        return self._seconds[min(self._seconds, key=lambda known: abs(known - rows))]

    def knee(self, most: int) -> int:
        """The fewest rows that give 95 % of the rows per second that `most` rows give.

        From R / (a + b R) >= 0.95 most / (a + b most), solved for R. More rows would only make each step slower.
        """
        line = self.line()
        if line is None or line[1] <= 0:
            return most
        a, b = max(0.0, line[0]), line[1]
        return min(most, max(2, ceil(_KNEE * most * a / (a + (1 - _KNEE) * b * most))))


class RowBudget:
    """The most rows of one pass, per size of picture (`key`): never less than a lone frame needs.

    `most_rows` bounds all; `room_bytes` bounds what the rows of a pass may take together. With it, the first pass of a
    size takes four rows at most, which tell what one takes.
    """

    def __init__(self, most_rows: int, room_bytes: int | None = None) -> None:
        self.most_rows = most_rows
        self._room_bytes = room_bytes
        self._row_bytes: dict[str, float] = {}
        self._measured_rows: dict[str, int] = {}
        self._lowered: dict[str, int] = {}
        self._streaks: dict[str, int] = defaultdict(int)
        self._times: dict[str, TickTimes] = defaultdict(TickTimes)

    def limit(self, key: str) -> int:
        """The most rows that one pass takes now: what fits, and no more than pays.

        Sixteen always pay, eight images with guidance: where a pass of few rows is as good as one of many, a newcomer
        would wait for whole jobs and nobody would gain.
        """
        return min(self.fitting(key), max(_LEAST_ROWS, self._times[key].knee(self.most_rows)))

    def fitting(self, key: str) -> int:
        """The most rows that fit the memory, as far as is known."""
        most = min(self.most_rows, self._lowered.get(key, self.most_rows))
        if self._room_bytes is None:
            return max(1, most)
        row_bytes = self._row_bytes.get(key)
        if row_bytes is None:
            return min(most, _UNMEASURED_ROWS)
        return max(1, min(most, int(self._room_bytes / max(row_bytes, 1.0))))

    def is_unmeasured(self, key: str, rows: int) -> bool:
        """Whether no pass over so many rows has told what it takes."""
        return self._room_bytes is not None and rows > self._measured_rows.get(key, 0)

    def seconds(self, key: str, rows: int) -> float | None:
        """The expected time of a pass."""
        return self._times[key].seconds(rows)

    def note(self, key: str, rows: int, seconds: float, used_bytes: int | None) -> None:
        """A pass went well. After 200 in a row at a lowered limit, the limit rises by two."""
        self._times[key].learn(rows, seconds)
        if used_bytes is not None:
            self._row_bytes[key] = max(self._row_bytes.get(key, 0.0), used_bytes / rows)
            self._measured_rows[key] = max(self._measured_rows.get(key, 0), rows)
        if key in self._lowered and rows >= self._lowered[key] - 1:
            self._streaks[key] += 1
            if self._streaks[key] >= _RAISE_AFTER:
                self._lowered[key] = min(self.most_rows, self._lowered[key] + 2)
                self._streaks[key] = 0

    def lower(self, key: str, rows: int) -> None:
        """A pass over more than `rows` did not fit."""
        self._lowered[key] = max(1, min(rows, self._lowered.get(key, rows)))
        self._streaks[key] = 0
