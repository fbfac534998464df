"""What both training stages share: a clock that ends them, a learning rate that follows it, averaged weights."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from torch import nn


@dataclass(slots=True)
class Clock:
    """A wall-clock budget. Time, not steps, bounds a stage, so that a slow machine trains less, not longer."""

    budget_seconds: float
    started: float = field(default_factory=time.monotonic)

    def fraction(self) -> float:
        """The share of the budget that is spent, 0 to 1."""
        return min(1.0, (time.monotonic() - self.started) / max(self.budget_seconds, 1e-9))

    def steps(self) -> Iterator[int]:
        """0, 1, 2, ... until the budget is spent."""
        step = 0
        while self.fraction() < 1.0:
            yield step
            step += 1


def learning_rate(peak: float, step: int, fraction: float, warmup_steps: int = 100) -> float:
    """Linear warm-up, then half a cosine down to 2 % of `peak` as the budget runs out."""
    warmup = min(1.0, (step + 1) / warmup_steps)
    return peak * warmup * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * fraction)))


class Average:
    """An exponential moving average of a module's weights, kept in a twin that is fit for use at any time."""

    def __init__(self, module: nn.Module, decay: float = 0.999) -> None:
        self.module = copy.deepcopy(module).eval().requires_grad_(False)
        self._decay = decay
        self._updates = 0

    @torch.no_grad()
    def update(self, module: nn.Module) -> None:
        """Take one step towards `module`; young averages follow faster."""
        self._updates += 1
        decay = min(self._decay, (1 + self._updates) / (10 + self._updates))
        averaged: list[torch.Tensor] = list(self.module.parameters())
        current: list[torch.Tensor] = list(module.parameters())
        torch._foreach_lerp_(averaged, current, 1 - decay)


def optimise(optimiser: torch.optim.Optimizer, loss: torch.Tensor, parameters: list[nn.Parameter], rate: float) -> None:
    """One clipped step of `optimiser` at learning rate `rate`."""
    for group in optimiser.param_groups:
        group["lr"] = rate
    optimiser.zero_grad(set_to_none=True)
    torch.autograd.backward(loss)
    nn.utils.clip_grad_norm_(parameters, 1.0)
    optimiser.step()
