"""One diffusers call over frames that share a call key: what both engines run, each in its own way."""

from collections.abc import Callable, Sequence
from copy import copy
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from common.domain.capabilities import Task
from common.domain.errors import JobFailure
from common.domain.params import PassParams
from worker.engine.adapters import AdapterRack
from worker.engine.port import Prepared
from worker.pipelines.family import Family, Parts
from worker.pipelines.schedulers import keep_on_host, unused_copy

if TYPE_CHECKING:
    import torch

OnStep = Callable[[int, int, "torch.Tensor"], None]


@dataclass(frozen=True, slots=True)
class DiffusersCall:
    """How frames run on a loaded model. Holds no state of a run: every call has its own pipeline object and scheduler,
    copies of `templates` that never run.

    `has_host_timesteps`: the scheduler's numbers stay in main memory, so that no step waits for the device to read one.
    """

    family: Family
    parts: Parts
    has_host_timesteps: bool = False
    templates: dict[tuple[Task, str | None], Any] = field(default_factory=dict)

    def denoise(self, frames: Sequence[Prepared], on_step: OnStep) -> "torch.Tensor":
        """The latents that the call leaves, (frames, 4, height / 8, width / 8).

        `on_step(done, total, latents)` is called after each denoising step; what it raises ends the call and comes
        through. Raises `JobFailure` (`infeasible`) when the schedule has no step to run.
        """
        import torch

        params = frames[0].params
        pipeline = self._pipeline(params)
        has_run = False

        def on_step_end(caller: Any, step: int, _timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
            nonlocal has_run
            has_run = True
            on_step(step + 1, caller.num_timesteps, tensors["latents"])
            return tensors

        with torch.no_grad():
            arguments = self.family.arguments(self.parts, frames)
        latents: torch.Tensor = pipeline(**arguments, output_type="latent", callback_on_step_end=on_step_end).images
        if not has_run:
            raise JobFailure("the scheduler leaves this pass no step to run; choose another cut", code="infeasible")
        return latents

    def _pipeline(self, params: PassParams) -> Any:
        key = (params.task, params.scheduler)
        if key not in self.templates:
            self.templates[key] = self.family.pipeline(self.parts, *key)
        made = copy(self.templates[key])
        scheduler = unused_copy(made.scheduler)
        if self.has_host_timesteps:
            keep_on_host(scheduler)
        vars(made)["scheduler"] = scheduler  # the pipeline's own setter would register it anew
        return made

    def hang(self, rack: AdapterRack, params: PassParams) -> None:
        """Hang the adapters of a pass on the model, and no others; see `AdapterRack.hold`."""
        if not rack.holds(params.adapters):
            rack.hold(self.family.pipeline(self.parts, params.task, params.scheduler), params.adapters)

    def shape_key(self, frame: Prepared) -> str:
        """What frames of one call must share beyond their call key."""
        start = "latents" if frame.latents is not None else "pixels"
        return f"{start} {self.family.shape_key(self.parts, frame)}"

    def warnings(self, frame: Prepared) -> list[dict[str, str]]:
        """What the model does otherwise than asked."""
        return self.family.warnings(self.parts, frame)


def scaled(done: int, total: int, steps: int) -> int:
    """`done` of `total` evaluations as steps of `steps`.

    Some schedulers call the model more often than they are asked to step (PNDM once, Heun twice per step).
    """
    return -(-done * steps // total)
