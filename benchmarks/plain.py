"""Plain diffusers, as a script or a simple worker uses it: pipelines that stay loaded, one call per group of images."""

from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

from PIL import Image

from benchmarks.checkpoints import PRIOR
from benchmarks.workloads import SWITCH_AT, Edit, picture


class Plain:
    """Pipelines of the checkpoints in a folder, each loaded when it is first needed."""

    def __init__(self, folder: Path, *, device: str = "cpu", dtype: Any = None) -> None:
        import torch

        self.folder = folder
        self.device = device
        self.dtype = torch.float32 if dtype is None else dtype
        self._pipelines: dict[str, Any] = {}

    def pipeline(self, model: str) -> Any:
        """The resident img2img pipeline of a model."""
        if model not in self._pipelines:
            self._pipelines[model] = self.load(model)
        return self._pipelines[model]

    def load(self, model: str) -> Any:
        """A pipeline from the disk."""
        made = _kind(model).from_pretrained(self.folder / model, dtype=self.dtype, **_LOADING.get(model, {}))
        made.set_progress_bar_config(disable=True)
        return made.to(self.device)

    def forget(self) -> None:
        """Load again from now on."""
        self._pipelines.clear()

    def draw(self, edits: Sequence[Edit]) -> list[Image.Image]:
        """The pictures of jobs with equal parameters, by one call of each model."""
        first = edits[0]
        if first.model == "kandinsky22":
            return self._draw_kandinsky(edits)
        common = {
            "prompt": [one.prompt for one in edits],
            "negative_prompt": [""] * len(edits),
            "num_inference_steps": first.steps,
            "guidance_scale": first.guidance_scale,
            "generator": _noise(edits),
        }
        image = [picture(first.side)] * len(edits)
        if first.refiner is None:
            return _images(self.pipeline(first.model)(**common, image=image, strength=first.strength))
        base = self.pipeline(first.model)
        begun = base(**common, image=image, strength=first.strength, denoising_end=SWITCH_AT, output_type="latent")
        refiner = self.pipeline(first.refiner)
        return _images(refiner(**common | {"generator": _noise(edits)}, image=begun.images, denoising_start=SWITCH_AT))

    def _draw_kandinsky(self, edits: Sequence[Edit]) -> list[Image.Image]:
        """One after the other: the prior takes one seed per prompt only where it is called once per job."""
        return [self._draw_one_kandinsky(edit) for edit in edits]

    def _draw_one_kandinsky(self, edit: Edit) -> Image.Image:
        prior = self.pipeline(PRIOR)
        embeds = prior(edit.prompt, negative_prompt="", generator=_noise([edit]))
        made = self.pipeline(edit.model)(
            image_embeds=embeds.image_embeds,
            negative_image_embeds=embeds.negative_image_embeds,
            image=[picture(edit.side)],
            strength=edit.strength,
            num_inference_steps=edit.steps,
            guidance_scale=edit.guidance_scale,
            width=edit.side,
            height=edit.side,
            generator=_noise([edit]),
        )
        return _images(made)[0]


def as_png(image: Image.Image) -> bytes:
    """The file as a script writes it: Pillow's default compression."""
    buffer = BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


_LOADING: dict[str, dict[str, Any]] = {
    model: {"safety_checker": None, "requires_safety_checker": False} for model in ("sd15", "sd21")
}


def _kind(model: str) -> Any:
    import diffusers

    if model in ("sd15", "sd21"):
        return diffusers.StableDiffusionImg2ImgPipeline
    if model == PRIOR:
        return diffusers.KandinskyV22PriorPipeline
    if model == "kandinsky22":
        return diffusers.KandinskyV22Img2ImgPipeline
    return diffusers.StableDiffusionXLImg2ImgPipeline


def _noise(edits: Sequence[Edit]) -> list[Any]:
    import torch

    return [torch.Generator("cpu").manual_seed(edit.seed) for edit in edits]


def _images(output: Any) -> list[Image.Image]:
    pictures: list[Image.Image] = output.images
    return pictures
