"""What a pipeline family is: the same few parts in every module of this folder."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from PIL.Image import Image

from common.domain.catalogue import Task
from common.domain.job import ClaimedJob

if TYPE_CHECKING:
    import torch

Parts = Mapping[str, Any]


class Frame(Protocol):
    """What a family reads of a frame; `worker.engine.port.Prepared` has it. Families know nothing of engines."""

    @property
    def job(self) -> ClaimedJob:
        """The job that the frame is of."""

    @property
    def seed(self) -> int:
        """Where this frame's noise starts from."""

    @property
    def image(self) -> Image | None:
        """RGB of the size that runs, or None for txt2img."""


class Family(Protocol):
    """One family of checkpoints. A module satisfies it; importing that module loads neither torch nor diffusers."""

    NAME: str
    TASKS: frozenset[Task]
    LOADING: Mapping[str, Any]
    """Extra arguments of `from_pretrained`; a part that is None here is not even fetched."""

    def loader(self) -> Any:
        """The diffusers class whose `from_pretrained` loads the parts."""

    def pipeline(self, parts: Parts, task: Task) -> Any:
        """A new pipeline object over the shared parts with a scheduler of its own, so that calls share no state."""

    def arguments(self, frames: Sequence[Frame]) -> dict[str, Any]:
        """The call arguments of frames with one `call_key`: the answer has one image per frame, in this order."""

    def autoencoder(self, parts: Parts) -> Any:
        """The part that turns latents into pixels."""

    def decode(self, parts: Parts, latents: "torch.Tensor") -> "torch.Tensor":
        """Pixels of latents as the diffusers call makes them: (frames, 3, height, width), nominally -1 to 1."""
