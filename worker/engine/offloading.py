"""Offloading for small devices: the parts of a model wait in main memory, and one at a time is on the device.

accelerate's own model offload is not used: it only lets a part leave for its successor in a fixed order, which an
aborted call or a picture that is encoded breaks; it copies weights back that have not changed; and loading an adapter
replaces its hooks.
"""

from collections.abc import Iterable
from typing import Any

import torch
from accelerate.hooks import ModelHook, add_hook_to_module
from accelerate.utils import send_to_device
from accelerate.utils.memory import clear_device_cache
from torch import Tensor
from torch.nn import Module

from worker.memory import weight_bytes
from worker.pipelines.family import Parts


class Stage:
    """The device as parts of one model share it: who is called comes, and who was there before goes.

    Weights that leave are dropped, not copied: what waits in main memory was never gone. Belongs to one thread.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._present: Module | None = None
        self._waiting: dict[int, Tensor] = {}

    @property
    def present(self) -> Module | None:
        """The part that is on the device."""
        return self._present

    def enter(self, part: Module) -> None:
        """Bring this part onto the device, and any other off it. Where it does not fit, nobody is there."""
        if part is self._present:
            return
        self.clear()
        self._present = part
        try:
            with torch.inference_mode(False):
                for tensor in _tensors(part):
                    self._waiting[id(tensor)] = tensor.data
                    tensor.data = tensor.data.to(self.device, copy=True)
        except BaseException:
            self.clear()
            raise

    def clear(self) -> None:
        """Nobody is on the device any more. A number format that a part was given there stays."""
        if self._present is None:
            return
        with torch.inference_mode(False):
            for tensor in _tensors(self._present):
                before = self._waiting.get(id(tensor))
                tensor.data = tensor.data.to("cpu") if before is None else before.to(tensor.dtype)
        self._present = None
        self._waiting.clear()
        clear_device_cache()


class _Entrance(ModelHook):  # type: ignore[misc]
    """Before each call of a part; also before `encode` and `decode`, where diffusers asks for it."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        # Here diffusers looks for the device on which a pipeline makes its latents.
        self.execution_device = stage.device

    def pre_forward(self, module: Module, *args: Any, **kwargs: Any) -> tuple[Any, Any]:
        self._stage.enter(module)
        return send_to_device(args, self._stage.device), send_to_device(kwargs, self._stage.device)


def offload(parts: Parts, device: torch.device) -> Stage:
    """Let the parts of a model, which lie in main memory, come to this device when they are called, one at a time.

    Pipelines over these parts make their latents on the device. Call `clear` after each call of the model, however it
    ended, so that it keeps no memory while it rests.
    """
    stage = Stage(device)
    for part in _modules(parts.values()):
        add_hook_to_module(part, _Entrance(stage))
    return stage


def largest_bytes(parts: Parts) -> int:
    """What the weights of an offloaded model take of the device at most."""
    return max(weight_bytes([part]) for part in _modules(parts.values()))


def _modules(parts: Iterable[Any]) -> list[Module]:
    return [part for part in parts if isinstance(part, Module)]


def _tensors(part: Module) -> list[Tensor]:
    return [*part.parameters(), *part.buffers()]
