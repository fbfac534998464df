"""How long a pass takes and how much memory it needs, without waiting for the device."""

from collections import deque
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import torch

if TYPE_CHECKING:
    from worker.device import Device

Answer = TypeVar("Answer")
Note = Callable[[float, int | None], None]

_PROCESS = Path("/proc/self")


class Gauge(Protocol):
    """Measures passes of one device."""

    def run(self, work: Callable[[], Answer], note: Note, *, weigh: bool) -> Answer:
        """Do `work`; `note(seconds, bytes)` is called at once or later, when the device has told. Without `weigh`, and
        where it cannot be known, the bytes are None.
        """


class HostGauge:
    """For devices that answer only when they are done, such as the CPU.

    Bytes are those by which the process grew beyond what it had, at its peak; Linux tells them.
    """

    def run(self, work: Callable[[], Answer], note: Note, *, weigh: bool) -> Answer:
        """Do `work` and note its seconds."""
        before = _resident_bytes("VmRSS") if weigh and _forget_peak() else None
        began = perf_counter()
        answer = work()
        seconds = perf_counter() - began
        peak = None if before is None else _resident_bytes("VmHWM")
        note(seconds, None if before is None or peak is None else max(0, peak - before))
        return answer


class CudaGauge:
    """For CUDA, which runs behind the host: the seconds come from events, the bytes from the allocator."""

    def __init__(self, device: "Device") -> None:
        self._device = device.torch_device
        self._pending: deque[tuple[Any, Any, int, Note]] = deque()

    def run(self, work: Callable[[], Answer], note: Note, *, weigh: bool) -> Answer:
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


def _forget_peak() -> bool:
    """Let the peak of resident memory begin anew; False where that cannot be."""
    with suppress(OSError):
        (_PROCESS / "clear_refs").write_text("5")
        return True
    return False


def _resident_bytes(name: str) -> int | None:
    with suppress(OSError):
        for line in (_PROCESS / "status").read_text().splitlines():
            if line.startswith(name):
                return int(line.split()[1]) << 10
    return None
