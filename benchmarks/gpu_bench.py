"""What the parts of `benchmarks.gpu` share: the device, the checkpoints, and how time and memory are measured."""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.gpu_models import SUBJECTS, TINY, Subject, save_subject
from benchmarks.plain import Plain
from worker.device import Device

REPEATS = 10
_ROWS = (1, 2, 4, 8, 12, 16, 24, 32)


@dataclass(frozen=True, slots=True)
class Bench:
    """What all parts share: the device, where checkpoints lie, how often each is measured, and tiny models or not."""

    device: Device
    checkpoints: Path
    rounds: int
    is_tiny: bool

    def subject(self, name: str) -> Subject:
        """The model of this name."""
        return (TINY if self.is_tiny else SUBJECTS)[name]

    def plain(self, subject: Subject) -> Plain:
        """Plain diffusers on this device, with the subject's checkpoint saved."""
        save_subject(subject, self.checkpoints, self.device)
        return Plain(self.checkpoints, device=str(self.device.torch_device), dtype=self.device.dtype)

    def wait(self) -> None:
        """Until the device has nothing to do."""
        if self.device.kind == "cuda":
            import torch

            torch.cuda.synchronize()

    def rows(self, subject: Subject) -> list[int]:
        """The numbers of rows that passes are measured with."""
        return [rows for rows in _ROWS if rows <= subject.most_rows]


Part = Callable[[Bench], dict[str, Any]]


def seconds_of(work: Callable[[], Any], bench: Bench) -> float:
    """Median seconds of one call among several back to back, so that the host may run ahead of the device."""
    for _ in range(3):
        work()
    bench.wait()
    found = []
    for _ in range(bench.rounds):
        began = time.perf_counter()
        for _ in range(REPEATS):
            work()
        bench.wait()
        found.append((time.perf_counter() - began) / REPEATS)
    return statistics.median(found)


class PeakMemory:
    """The most memory of the device in use since it was made, in megabytes; 0 where the device does not tell."""

    def __init__(self, bench: Bench) -> None:
        self._is_cuda = bench.device.kind == "cuda"
        if self._is_cuda:
            import torch

            torch.cuda.reset_peak_memory_stats()

    def read(self) -> int:
        """Megabytes."""
        if not self._is_cuda:
            return 0
        import torch

        return round(torch.cuda.max_memory_allocated() / 1e6)
