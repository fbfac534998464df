"""Whose turn the device is, when several models have frames on it: ticks in turn, by the frames that they serve."""

from collections.abc import Mapping


class TurnTaker:
    """Weighted fair turns: over time each model gets device seconds in proportion to its frames.

    A model that comes new gets no credit for the time before.
    """

    def __init__(self) -> None:
        self._served: dict[str, float] = {}

    def next(self, frames: Mapping[str, int]) -> str:
        """The model whose turn it is, of those with frames; at least one has."""
        present = {model: self._served[model] for model in frames if model in self._served}
        floor = min(present.values(), default=0.0)
        self._served = {model: present.get(model, floor) for model in frames}
        return min(self._served, key=lambda model: self._served[model])

    def charge(self, model: str, seconds: float, frames: int) -> None:
        """The model's tick over so many frames took so long."""
        self._served[model] = self._served.get(model, 0.0) + seconds / max(1, frames)
