"""What a pipeline family is: the same few parts in every module of this folder."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from PIL.Image import Image

from common.domain.capabilities import Task
from common.domain.params import PassParams

if TYPE_CHECKING:
    import torch

Parts = Mapping[str, Any]
LatentRgb = Sequence[Sequence[float]] | None


class Frame(Protocol):
    """What a family reads of a frame; `worker.engine.port.Prepared` has it. Families know nothing of engines."""

    @property
    def params(self) -> PassParams:
        """What this run of the model is."""

    @property
    def seed(self) -> int:
        """Where this frame's noise starts from."""

    @property
    def image(self) -> Image | None:
        """RGB of the size that runs, or None for txt2img and where there are latents."""

    @property
    def mask(self) -> Image | None:
        """L of the size that runs, white where it repaints; None unless inpaint."""

    @property
    def latents(self) -> "torch.Tensor | None":
        """What the pass before handed over in place of an image: (4, height / 8, width / 8) on the CPU."""


class Loadable(Protocol):
    """How one repository of weights is loaded."""

    LOADING: Mapping[str, Any]
    """Extra arguments of `from_pretrained`; a part that is None here is not even fetched."""

    def loader(self) -> Any:
        """The diffusers class whose `from_pretrained` loads the parts."""


class Family(Loadable, Protocol):
    """One family of checkpoints. A module satisfies it; importing that module loads neither torch nor diffusers.

    What its weights can do stands in `common.domain.capabilities` under the same name. Beside the components, its
    parts hold the settings of the checkpoint's pipeline (`force_zeros_for_empty_prompt`, …) under their own names.
    """

    NAME: str
    LATENT_RGB: LatentRgb
    """Four rows of RGB weights that make a rough picture of latents; None where none are known."""

    def pipeline(self, parts: Parts, task: Task, scheduler: str | None) -> Any:
        """A new pipeline object over the shared parts with a scheduler of its own, so that calls share no state."""

    def shape_key(self, parts: Parts, frame: Frame) -> str:
        """What frames with one `call_key` must also share, and only the loaded model can tell (prompt chunks)."""

    def warnings(self, parts: Parts, frame: Frame) -> list[dict[str, str]]:
        """What this model does otherwise than asked: {code, pointer, detail}."""

    def arguments(self, parts: Parts, frames: Sequence[Frame]) -> dict[str, Any]:
        """The call arguments of frames with one `call_key`: the answer has one image per frame, in this order.

        May run text encoders or a prior; everything is per frame, so that frames do not change one another.
        """

    def autoencoder(self, parts: Parts) -> Any:
        """The part that turns latents into pixels."""

    def decode(self, parts: Parts, latents: "torch.Tensor") -> "torch.Tensor":
        """Pixels of latents as the diffusers call makes them: (frames, 3, height, width), nominally -1 to 1."""
