"""How fast each model is on this device: what predictions of waiting and running times are made of."""

import math
import threading
from dataclasses import dataclass
from typing import Final

from worker.engine.port import Event, Finished, FrameRef, Prepared, Stepped

# What weighs most are the newest so many megapixel-steps, or seconds of the device if those are over sooner.
_MEMORY_MEGAPIXEL_STEPS: Final = 50.0
_MEMORY_SECONDS: Final = 60.0
_DIGITS: Final = 4


@dataclass(slots=True)
class _Run:
    seconds: float = 0.0
    megapixel_steps: float = 0.0


class Throughput:
    """Learns device seconds per megapixel and step of each model, as jobs in company have them. Thread-safe.

    What a frame costs beside its steps (texts, pictures) counts as one step more, as in
    `common.domain.fairness.predicted_seconds`, so that a pace stands for a card's `seconds_per_megapixel_step`.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._runs: dict[str, _Run] = {}
        self._steps: dict[FrameRef, int] = {}
        self._done = 0.0
        self._just_loaded: set[str] = set()

    def load(self, model: str) -> None:
        """The model was loaded: its next tick, which warms it up, says nothing of those to come."""
        self._just_loaded.add(model)

    def hear(self, frame: Prepared, event: Event) -> None:
        """What a tick says of a frame; counts as work of the tick that `charge` closes."""
        steps = 0
        if isinstance(event, Stepped):
            known = self._steps.get(event.ref, 0)
            self._steps[event.ref] = event.step
            # Fewer than before: a call that ran out of memory begins anew.
            steps = event.step - known if event.step >= known else event.step
        else:
            self._steps.pop(event.ref, None)
            steps = int(isinstance(event, Finished))
        self._done += steps * frame.params.width * frame.params.height / 1e6

    def charge(self, model: str, seconds: float) -> None:
        """A tick of the model is over and took so many seconds, ticks without a step among them."""
        done, self._done = self._done, 0.0
        if model in self._just_loaded:
            self._just_loaded.discard(model)
            return
        kept = math.exp(-max(done / _MEMORY_MEGAPIXEL_STEPS, seconds / _MEMORY_SECONDS))
        with self._lock:
            run = self._runs.setdefault(model, _Run())
            run.seconds = run.seconds * kept + seconds
            run.megapixel_steps = run.megapixel_steps * kept + done

    def paces(self) -> dict[str, float] | None:
        """Seconds per megapixel and step by model, to four digits; None while nothing is measured. Any thread."""
        with self._lock:
            measured = {
                model: float(f"{run.seconds / run.megapixel_steps:.{_DIGITS}g}")
                for model, run in self._runs.items()
                if run.megapixel_steps > 0 and run.seconds > 0
            }
        return measured or None
