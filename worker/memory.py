"""Giving memory back to the system and the device."""

import ctypes
import gc
import sys
from contextlib import suppress


def release_memory() -> None:
    """Return what is no longer referenced: to the device, and to the operating system where glibc can.

    Without `malloc_trim` an evicted model's pages stay with the process (measured: 1.4 of 1.6 GB).
    """
    gc.collect()
    with suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").malloc_trim(0)
    torch = sys.modules.get("torch")
    if torch is None:
        return
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    elif torch.backends.mps.is_available():
        torch.mps.empty_cache()
