"""A call and a decoder without an engine around them, which would recover from what a test wants to see."""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

from common.domain.params import EditParams
from tests.gpu.studio import frames
from worker.engine.decoding import Decoder, Made
from worker.engine.diffusers_call import DiffusersCall
from worker.pipelines.family import Family


class Plainly:
    """Runs jobs on the loaded parts of a model."""

    def __init__(self, family: Family, parts: dict[str, Any]) -> None:
        self.parts = parts
        self._call, self._decoder = DiffusersCall(family, parts), Decoder(family, parts)

    def run(self, params: EditParams, *, is_saving: bool = False) -> list[Made]:
        """What is made of each frame of this job, in one call; fails when one cannot be made."""
        import torch

        saving: AbstractContextManager[None] = self._decoder.saving_memory() if is_saving else nullcontext()
        with saving:
            latents = self._call.denoise(frames(params), lambda *_: None)
            outcomes = self._decoder.outcomes(frames(params), torch.split(latents, 1))
        made = [one for one in outcomes if isinstance(one, Made)]
        assert len(made) == len(outcomes), outcomes
        return made

    def pictures(self, params: EditParams, *, is_saving: bool = False) -> list[Any]:
        """The pictures of this job."""
        return [one.picture for one in self.run(params, is_saving=is_saving)]
