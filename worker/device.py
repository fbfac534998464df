"""The device of this process, and the number format that follows from it."""

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import torch

Kind = Literal["cpu", "cuda", "mps"]


@dataclass(frozen=True, slots=True)
class Device:
    """One device: `spec` is how operators call it, `torch_device` how torch does in this process."""

    spec: str
    kind: Kind
    name: str
    torch_device: "torch.device"
    dtype: "torch.dtype"

    @property
    def is_half(self) -> bool:
        """True when weights are held in 16 bits."""
        return self.dtype.itemsize == 2

    def variant_of(self, variant: str | None) -> str | None:
        """The weight files to load: the model's variant with half precision, the full ones otherwise."""
        return variant if self.is_half else None


def pick_device(spec: str, *, is_pinned: bool = False) -> Device:
    """The device of a spec: `cpu`, `mps`, `cuda`, `cuda:3`, or `auto` for the first there is of cuda, mps, cpu.

    Raises ValueError saying what is missing. `is_pinned`: the launcher gave this process that device alone, so
    that a pinned `cuda:3` is the only device that torch sees, its `cuda:0`.
    """
    kind, _, index = _settle(spec).partition(":")
    if kind == "cuda":
        return _cuda(int(index or 0), is_pinned=is_pinned)
    return _mps() if kind == "mps" else _cpu()


def main_memory() -> "torch.device":
    """Where parts wait that are not on a device."""
    import torch

    return torch.device("cpu")


def use_threads(count: int) -> None:
    """Let torch compute with `count` CPU threads; 0 takes half of the cores, at least one."""
    import torch

    torch.set_num_threads(count or max(1, (os.cpu_count() or 1) // 2))


def _settle(spec: str) -> str:
    import torch

    if spec != "auto":
        return spec
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def _cpu() -> Device:
    import torch

    return Device("cpu", "cpu", "CPU", torch.device("cpu"), torch.float32)


def _mps() -> Device:
    import torch

    if not torch.backends.mps.is_available():
        raise ValueError("device mps: this machine or this torch has no Metal support; use --device cpu")
    return Device("mps", "mps", "Apple GPU", torch.device("mps"), torch.float16)


def _cuda(index: int, *, is_pinned: bool) -> Device:
    import torch

    seen = 0 if is_pinned else index
    if seen >= torch.cuda.device_count():
        raise ValueError(f"device cuda:{index}: torch sees {torch.cuda.device_count()} CUDA devices; use --device cpu")
    # Asking for emulation too would say yes on cards that have no bfloat16 units and run it slowly.
    has_bfloat16 = torch.cuda.get_device_capability(seen) >= (8, 0)
    dtype = torch.bfloat16 if has_bfloat16 else torch.float16
    name = torch.cuda.get_device_name(seen)
    return Device(f"cuda:{index}", "cuda", name, torch.device("cuda", seen), dtype)
