"""Which devices this machine has, and the environment that gives one process exactly one of them.

For the launcher: importing this module, and calling anything in it, loads no torch.
"""

import platform
import re
import subprocess
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

PINNED = "DARKROOM_PINNED_DEVICE"
_NO_ENVIRONMENT: Mapping[str, str] = MappingProxyType({})
_NVIDIA_PROC = Path("/proc/driver/nvidia/gpus")
_GPU_LINE = re.compile(r"^GPU \d+:", re.MULTILINE)


def list_device_specs(environment: Mapping[str, str] = _NO_ENVIRONMENT) -> list[str]:
    """One spec per device that a worker should have: every visible CUDA device, else `mps`, else `cpu`.

    `environment` is the launcher's own; a `CUDA_VISIBLE_DEVICES` in it is respected.
    """
    count = _count_visible(environment)
    if count:
        return [f"cuda:{index}" for index in range(count)]
    is_apple_silicon = platform.system() == "Darwin" and platform.machine() == "arm64"
    return ["mps"] if is_apple_silicon else ["cpu"]


def pin_environment(spec: str, environment: Mapping[str, str] = _NO_ENVIRONMENT) -> dict[str, str]:
    """The variables that a process must start with to see `spec` alone. Pure; `environment` is the launcher's own.

    A process pinned to `cuda:3` sees that device as `cuda:0` and still calls it `cuda:3`. `auto` pins nothing.
    """
    pinned = {"DARKROOM_DEVICE": spec, "DIFFUSERS_DISABLE_REMOTE_CODE": "1"}
    kind, _, index = spec.partition(":")
    if kind == "cpu":
        return pinned | {"CUDA_VISIBLE_DEVICES": ""}
    if kind == "cuda" and index:
        visible = _visible_entry(int(index), environment)
        return pinned | {"CUDA_DEVICE_ORDER": "PCI_BUS_ID", "CUDA_VISIBLE_DEVICES": visible, PINNED: spec}
    return pinned


def count_gpus(listing: str) -> int:
    """How many GPUs `nvidia-smi -L` lists; the MIG slices below a GPU do not count."""
    return len(_GPU_LINE.findall(listing))


def _count_visible(environment: Mapping[str, str]) -> int:
    chosen = environment.get("CUDA_VISIBLE_DEVICES")
    return _count_installed() if chosen is None else len(_entries(chosen))


def _count_installed() -> int:
    try:
        listing = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return len(list(_NVIDIA_PROC.iterdir())) if _NVIDIA_PROC.is_dir() else 0
    return count_gpus(listing.stdout)


def _visible_entry(index: int, environment: Mapping[str, str]) -> str:
    entries = _entries(environment.get("CUDA_VISIBLE_DEVICES", ""))
    if not entries:
        return str(index)
    if index >= len(entries):
        raise ValueError(f"cuda:{index} is not among the {len(entries)} devices of CUDA_VISIBLE_DEVICES")
    return entries[index]


def _entries(visible: str) -> list[str]:
    return [entry.strip() for entry in visible.split(",") if entry.strip() not in {"", "-1"}]
