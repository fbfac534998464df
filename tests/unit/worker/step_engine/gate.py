"""All cases of a checkpoint, by the plain call, by the engine alone, and by the engine with everything at once."""

from dataclasses import replace
from functools import cache
from itertools import chain, cycle, islice
from typing import TYPE_CHECKING, Any

from PIL import Image

from tests.tiny_models import load
from tests.unit.worker.pipelines.conftest import Shop
from tests.unit.worker.pipelines.still import decoded
from tests.unit.worker.step_engine.cases import EVERY, Case
from tests.unit.worker.step_engine.plain import Plain
from tests.unit.worker.step_engine.running import engine_of, failures, finished, only, play, tick
from worker.device import pick_device
from worker.engine.port import Finished
from worker.pipelines.registry import pipeline_for

if TYPE_CHECKING:
    import torch

# Two more than the seven that everyone is to meet.
_AT_ONCE = 10


class Gate:
    """Runs every case once, in one number format.

    `plain` has the latents of the plain call and `plain_picture` its picture; `alone` is the end of a job that has an
    engine for itself.
    """

    def __init__(self, shop: Shop, dtype: "torch.dtype") -> None:
        self._shop = shop
        self._device = replace(pick_device("cpu"), dtype=dtype)
        plain = Plain(shop, dtype)
        self.plain = cache(plain.latents)
        self.plain_picture = plain.picture
        self.alone = cache(self._run_alone)
        self._parts = cache(self._load)
        self._together = cache(self._run_together)

    def in_company(self, case: Case) -> Finished:
        """The end of the same job among the others of its checkpoint: ten at a time, late ones for those who left."""
        return self._together(case.weights)[str(case)]

    def pixels(self, case: Case, latents: "torch.Tensor") -> "torch.Tensor":
        """Latents of one frame decoded, before anything is rounded to levels."""
        import torch

        with torch.no_grad():
            return pipeline_for(case.family).decode(self._parts(case.weights, case.family), latents[None])

    def decoded(self, case: Case, latents: "torch.Tensor") -> Image.Image:
        """The picture of latents as a plain call makes it."""
        return decoded(pipeline_for(case.family), self._parts(case.weights, case.family), latents[None])[0]

    def _run_alone(self, case: Case) -> Finished:
        return only(play(engine_of(case.family, self._parts(case.weights, case.family)), [case.frame()]))

    def _run_together(self, weights: str) -> dict[str, Finished]:
        cases = EVERY[weights]
        engine = engine_of(cases[0].family, self._parts(weights, cases[0].family))
        again = (case.frame(f"again-{number}") for number, case in enumerate(cycle(cases)))
        waiting = chain([case.frame() for case in cases], again)
        missing = {str(case) for case in cases}
        ends: dict[str, Finished] = {}
        while missing:
            for frame in islice(waiting, _AT_ONCE - engine.load().frames):
                engine.join(frame)
            events = tick(engine)
            assert not failures(events)
            ends |= finished(events)
            missing -= ends.keys()
        engine.close()
        return ends

    def _load(self, weights: str, family: str) -> dict[str, Any]:
        prior = self._shop.folder("kandinsky_prior") if family.startswith("kandinsky") else None
        return load(self._shop.folder(weights), family, prior=prior, device=self._device)
