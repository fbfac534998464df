"""How long a pass takes and how much memory it needs, without waiting for the device."""

from collections import deque
from collections.abc import Callable
from time import perf_counter
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import torch

if TYPE_CHECKING:
    from worker.device import Device

Answer = TypeVar("Answer")
Note = Callable[[float, int | None], None]


class Gauge(Protocol):
    """Measures passes of one device."""

    def run(self, work: Callable[[], Answer], note: Note) -> Answer:
        """Do `work`; `note(seconds, bytes)` is called at once or later, when the device has told. No bytes: unknown."""


class HostGauge:
    """For devices that answer only when they are done, such as the CPU."""

    def run(self, work: Callable[[], Answer], note: Note) -> Answer:
        """Do `work` and note its seconds."""
        began = perf_counter()
        answer = work()
        note(perf_counter() - began, None)
        return answer


class CudaGauge:
    """For CUDA, which runs behind the host: the seconds come from events, the bytes from the allocator."""

    def __init__(self, device: "Device") -> None:
        self._device = device.torch_device
        self._pending: deque[tuple[Any, Any, int, Note]] = deque()

    def run(self, work: Callable[[], Answer], note: Note) -> Answer:
        """Do `work`, and note what passes before it took, as far as they are done."""
        self._harvest()
        torch.cuda.reset_peak_memory_stats(self._device)
        before = torch.cuda.memory_allocated(self._device)
        began, ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
        began.record()
        answer = work()
        ended.record()
        used = torch.cuda.max_memory_allocated(self._device) - before
        self._pending.append((began, ended, used, note))
        return answer

    def _harvest(self) -> None:
        while self._pending and self._pending[0][1].query():
            began, ended, used, note = self._pending.popleft()
            note(began.elapsed_time(ended) / 1000, used)


def gauge_for(device: "Device | None") -> Gauge:
    """The gauge of a device."""
    return CudaGauge(device) if device is not None and device.kind == "cuda" else HostGauge()
