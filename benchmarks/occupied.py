"""For how much of the time a device is occupied by a model's parts: the union of the intervals in which they run.

On CUDA the intervals are those of events around each forward call of UNet, VAE and text encoders, launch gaps within a
call included; on a CPU they are the calls themselves. The same for every program, whatever calls the parts.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

Interval = tuple[float, float]


class Occupied:
    """Watches the parts of one loaded model."""

    def __init__(self, parts: Mapping[str, Any], *, is_cuda: bool) -> None:
        self._modules = list(_called(parts))
        self._is_cuda = is_cuda
        self._marks: list[tuple[Any, Any]] = []
        self._open: list[Any] = []
        self._is_watching = False

    @contextmanager
    def watching(self) -> Iterator["Occupied"]:
        """Note calls within."""
        self._marks.clear()
        self._is_watching = True
        hooks = [module.register_forward_pre_hook(lambda *_: self._begin()) for module in self._modules]
        hooks += [module.register_forward_hook(lambda *_: self._end()) for module in self._modules]
        try:
            yield self
        finally:
            self._is_watching = False
            for hook in hooks:
                hook.remove()

    def around(self, run: Callable[..., Any]) -> Callable[..., Any]:
        """The same callable with its calls noted: for what stands in for a part and is no module."""

        def noted(*args: Any, **kwargs: Any) -> Any:
            if not self._is_watching:
                return run(*args, **kwargs)
            self._begin()
            try:
                return run(*args, **kwargs)
            finally:
                self._end()

        return noted

    def seconds(self) -> float:
        """The union of the calls' intervals; waits for the device."""
        return union_seconds(self._intervals())

    def _mark(self) -> Any:
        if not self._is_cuda:
            return time.perf_counter()
        import torch

        event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        event.record()
        return event

    def _begin(self) -> None:
        self._open.append(self._mark())

    def _end(self) -> None:
        self._marks.append((self._open.pop(), self._mark()))

    def _intervals(self) -> list[Interval]:
        if not self._is_cuda or not self._marks:
            return list(self._marks)
        import torch

        torch.cuda.synchronize()
        first = self._marks[0][0]
        return [(first.elapsed_time(one) / 1000, first.elapsed_time(other) / 1000) for one, other in self._marks]


def union_seconds(intervals: Iterable[Interval]) -> float:
    """The length of what at least one interval covers."""
    total, until = 0.0, float("-inf")
    for begins, ends in sorted(intervals):
        total += max(0.0, ends - max(begins, until))
        until = max(until, ends)
    return total


def _called(parts: Mapping[str, Any]) -> Iterator[Any]:
    """The modules that are called as a whole: UNet, text encoders, and the two halves of the VAE."""
    for name, part in parts.items():
        if part is None:
            continue
        if name == "vae":
            yield part.encoder
            yield part.decoder
        elif name == "unet" or name.startswith("text_encoder"):
            yield part
