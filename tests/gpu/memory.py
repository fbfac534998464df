"""How much of the device's memory work takes, and running with little of it left."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from worker.memory import release_memory


@dataclass(frozen=True, slots=True)
class Need:
    """What work took at its peak beyond what was taken before.

    With less than `least` bytes it cannot run, with `enough` it can: the allocator takes memory in larger pieces.
    """

    least: int
    enough: int


def need_of(work: Callable[[], object]) -> Need:
    """What this work takes. It runs once before, for what the libraries keep from the first time on."""
    import torch

    work()
    release_memory()
    torch.cuda.reset_peak_memory_stats()
    allocated, reserved = torch.cuda.memory_allocated(), torch.cuda.memory_reserved()
    work()
    return Need(torch.cuda.max_memory_allocated() - allocated, torch.cuda.max_memory_reserved() - reserved)


def between(less: Need, more: Need) -> int:
    """Bytes with which the one work can run and the other cannot; fails when they are too much alike to tell."""
    assert less.enough * 1.3 < more.least, f"{less} and {more} are too close"
    return (less.enough + more.least) // 2


@contextmanager
def leaving(room_bytes: int) -> Iterator[None]:
    """Take all of the device's memory but this much."""
    import torch

    release_memory()
    free = torch.cuda.mem_get_info()[0]
    ballast = torch.empty(max(0, free - room_bytes), dtype=torch.uint8, device="cuda")
    try:
        yield
    finally:
        del ballast
        release_memory()
